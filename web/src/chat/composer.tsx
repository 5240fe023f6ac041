/** The form for the next message. */
import {useSignal} from '@preact/signals';
import type {VNode} from 'preact';
import {useEffect, useLayoutEffect, useRef} from 'preact/hooks';
import {route} from '../app/router';
import {isNarrow} from '../app/viewport';
import {t} from '../i18n/i18n';
import {isSendKey} from '../settings/preferences';
import {userId} from '../session/session';
import type {Attachment} from '../storage/conversation';
import {StorageWarning} from '../storage/storage-problem';
import {IconButton} from '../ui/button';
import {Icon} from '../ui/icon';
import {showToast} from '../ui/toast';
import {attachFiles} from './attach-files';
import {imageUrl} from './attachments';
import {describeProgress} from './answer-status';
import {capabilitiesOf, loadCapabilities} from './capabilities';
import {answers, chosen, currentAnswer, sendMessage, stop} from './chat-store';
import {attachmentDraft, readDraft, setAttachments, writeDraft} from './drafts';
import {SendNotice} from './send-notice';
import {findObstacle, useSending} from './sending';

interface ComposerProperties {
  /** The conversation; '' for a new one. */
  readonly conversation: string;
  readonly onSend: () => void;
}

export function Composer({conversation, onSend}: ComposerProperties): VNode {
  const area = useRef<HTMLTextAreaElement>(null);
  const files = useRef<HTMLInputElement>(null);
  const camera = useRef<HTMLInputElement>(null);
  const {attachments, reading} = attachmentDraft(conversation).value;
  const model = chosen.value;
  const answering = currentAnswer.value;

  const fill = (content: string): void => {
    if (!area.current) return;
    area.current.value = content;
    grow(area.current);
  };

  const send = async (): Promise<void> => {
    const box = area.current;
    if (!box) return;
    const content = box.value.trim();
    const attached = attachmentDraft(conversation).peek().attachments;
    if (!content && attached.length === 0) return;
    const sender = userId.peek();
    fill('');
    writeDraft(conversation, '');
    setAttachments(conversation, []);
    onSend();
    if (matchMedia('(pointer: fine)').matches) box.focus(); // the button that sends it is gone
    if (await sendMessage(content, attached) || userId.peek() !== sender) return;
    // Its conversation is gone: what is shown now has it, or a new chat.
    const {id} = route.peek();
    writeDraft(id, [content, readDraft(id)].filter(Boolean).join('\n'));
    setAttachments(id, [...attached, ...attachmentDraft(id).peek().attachments]);
    fill(readDraft(id));
    showToast(t('chat.sendFailed'), 'error');
  };

  const obstacle = findObstacle(reading > 0);
  const sending = useSending(obstacle, () => void send());
  const submit = (): void => {
    const {attachments: attached, reading: isReading} = attachmentDraft(conversation).peek();
    const hasContent = area.current?.value.trim() || attached.length > 0 || isReading > 0;
    if (hasContent) sending.request();
  };

  useLayoutEffect(() => {
    const box = area.current;
    if (!box) return;
    fill(readDraft(conversation));
    if (matchMedia('(pointer: fine)').matches && !document.querySelector('dialog[open]')) box.focus();
  }, [conversation]);

  const attach = async (list: Iterable<File>): Promise<void> => {
    sending.cancel();
    await attachFiles(conversation, list, () => {
      // Nothing is sent without one that cannot be read, unless the person wants that.
      if (route.peek().id === conversation) sending.cancel();
    });
  };

  const remove = (index: number): void => {
    sending.cancel();
    setAttachments(conversation, attachments.filter((_, each) => each !== index));
    document.getElementById('attach')?.focus(); // the button that had the focus is gone
  };

  return (
    <form
      id="composer"
      onSubmit={event => { event.preventDefault(); submit(); }}
      onPaste={event => takeFiles(event, event.clipboardData, attach)}
    >
      <DropZone onFiles={list => void attach(list)} />
      <Attached attachments={attachments} onRemove={remove} />
      <Notice attachments={attachments} />
      {isNarrow.value && <StorageWarning />}
      <SendNotice held={sending.held} />
      <div class="composer-box">
        <textarea
          id="message"
          ref={area}
          rows={1}
          dir="auto"
          enterkeyhint="send"
          aria-label={t('chat.message')}
          placeholder={model ? t('chat.placeholder', {model: model.model}) : t(obstacle === 'models' ? 'chat.message' : 'chat.placeholderNoModel')}
          onInput={event => {
            const {value} = event.currentTarget;
            sending.cancel();
            writeDraft(conversation, value);
            grow(event.currentTarget);
          }}
          onKeyDown={event => {
            // Safari ends a composition before the key that ends it; its code is 229 then.
            if (!isSendKey(event) || event.keyCode === 229) return;
            event.preventDefault();
            submit();
          }}
        />
        <div class="composer-buttons">
          <input ref={files} type="file" multiple hidden accept="image/*,text/*,.md,.json,.csv,.log,.py,.js,.ts,.tsx,.rs,.go,.c,.h,.cpp,.java,.yaml,.yml,.toml,.xml,.sh,.sql" onChange={event => takeInput(event.currentTarget, attach)} />
          <input ref={camera} type="file" hidden accept="image/*" capture="environment" onChange={event => takeInput(event.currentTarget, attach)} />
          <IconButton id="attach" icon="attach" label={t('chat.attach')} onClick={() => files.current?.click()} />
          <IconButton id="camera" class="touch-only" icon="camera" label={t('chat.camera')} onClick={() => camera.current?.click()} />
          <Status />
          {/* Two elements: a press of the one must not become a press of the other. */}
          {answering
            ? <button key="stop" id="stop" type="button" class="with-icon" onClick={() => { stop(); area.current?.focus(); }}><Icon name="stop" />{t('chat.stop')}</button>
            : <button key="send" id="send" class="main with-icon" disabled={obstacle !== null}><Icon name="send" />{t('chat.send')}</button>}
        </div>
      </div>
    </form>
  );
}

/** Says how far the answer is; screen readers are told, too. */
function Status(): VNode {
  const message = currentAnswer.value;
  const answer = message ? answers.of(message.id) : undefined;
  return <p id="status" class="soft" role="status">{answer ? t(describeProgress(answer)) : ''}</p>;
}

function Attached({attachments, onRemove}: {readonly attachments: readonly Attachment[]; readonly onRemove: (index: number) => void}): VNode | null {
  if (attachments.length === 0) return null;
  return (
    <ul class="attachments" aria-label={t('chat.attachments')}>
      {attachments.map((each, index) => (
        <li key={index}>
          {each.kind === 'image' ? <img src={imageUrl(each)} alt={each.name} /> : <span class="file"><Icon name="attach" />{each.name}</span>}
          <IconButton icon="close" label={t('chat.removeAttachment', {name: each.name})} onClick={() => onRemove(index)} />
        </li>
      ))}
    </ul>
  );
}

/** Says that the model cannot see the images. */
function Notice({attachments}: {readonly attachments: readonly Attachment[]}): VNode | null {
  const choice = chosen.value;
  const hasImage = attachments.some(({kind}) => kind === 'image');
  useEffect(() => { if (hasImage && choice) void loadCapabilities(choice); }, [hasImage, choice?.desktop, choice?.model]);
  const capabilities = choice && hasImage ? capabilitiesOf(choice) : null;
  if (!choice || !capabilities || capabilities.includes('vision')) return null;
  return <p id="no-vision" class="error" role="status">{t('chat.noVision', {model: choice.model})}</p>;
}

/** Files can be dropped anywhere on the page. */
function DropZone({onFiles}: {readonly onFiles: (list: Iterable<File>) => void}): VNode | null {
  const isOver = useSignal(false);
  const listener = useRef(onFiles);
  listener.current = onFiles;
  useEffect(() => {
    const hasFiles = (event: DragEvent): boolean => event.dataTransfer?.types.includes('Files') ?? false;
    const over = (event: DragEvent): void => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      isOver.value = true;
    };
    const leave = (event: DragEvent): void => { if (event.relatedTarget === null) isOver.value = false; };
    const drop = (event: DragEvent): void => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      isOver.value = false;
      listener.current(event.dataTransfer?.files ?? []);
    };
    const listeners = {dragover: over, dragleave: leave, drop};
    for (const [type, each] of Object.entries(listeners)) addEventListener(type, each as EventListener);
    return () => { for (const [type, each] of Object.entries(listeners)) removeEventListener(type, each as EventListener); };
  }, []);
  return isOver.value ? <div class="drop-zone">{t('chat.dropHere')}</div> : null;
}

function takeFiles(event: Event, data: DataTransfer | null, attach: (list: Iterable<File>) => Promise<void>): void {
  const list = Array.from(data?.files ?? []);
  if (list.length === 0) return;
  event.preventDefault();
  void attach(list);
}

function takeInput(input: HTMLInputElement, attach: (list: Iterable<File>) => Promise<void>): void {
  const list = Array.from(input.files ?? []);
  input.value = '';
  void attach(list);
}

/** Browsers without `field-sizing` are told the height. */
function grow(area: HTMLTextAreaElement): void {
  if (CSS.supports('field-sizing', 'content')) return;
  area.style.height = 'auto';
  area.style.height = `${area.scrollHeight + 2}px`;
}
