/** A message of a conversation. */
import {useSignal} from '@preact/signals';
import type {VNode} from 'preact';
import {useLayoutEffect, useRef} from 'preact/hooks';
import {plural, t} from '../i18n/i18n';
import type {GrowingText} from '../markdown/growing-text';
import {Markdown} from '../markdown/markdown';
import {visibleText} from '../markdown/visible-text';
import type {Attachment, Id, Message, Statistics, ToolCall} from '../storage/conversation';
import {Button, IconButton} from '../ui/button';
import {CopyButton} from '../ui/copy-button';
import {formatDuration, formatNumber} from '../ui/format';
import {Icon} from '../ui/icon';
import {useNow} from '../ui/use-now';
import {describeInterruption, isSilent} from './answer-status';
import type {Answer} from './answer';
import {imageUrl} from './attachments';
import type {ShownMessage} from './branches';
import {answers, continueAnswer, retry, sendEdited, showVersion, stopAnswer} from './chat-store';
import {readEdit, writeEdit} from './drafts';
import {WaitingTime} from './elapsed';
import {PlainTextView} from './plain-text-view';
import {AnswerNotice, SendNotice} from './send-notice';
import {answerObstacle, useSending} from './sending';
import {tokensPerSecond} from './statistics';

export interface MessageProperties {
  /** The id of its conversation. */
  readonly conversation: Id;
  readonly shown: ShownMessage;
  readonly isLast: boolean;
  /** Whether it was far from the end when the conversation was opened: the browser lays it out only near what is seen. */
  readonly isEarly?: boolean;
}

export function MessageView(properties: MessageProperties): VNode {
  const {message} = properties.shown;
  if (message.role === 'user') return <Question {...properties} />;
  if (message.role === 'tool') return <ToolResult {...properties} />;
  return <Response {...properties} />;
}

function classOf({isEarly = false}: MessageProperties, kind: string): string {
  return `message ${kind} ${isEarly ? 'early' : ''}`;
}

function Question(properties: MessageProperties): VNode {
  const {conversation, shown} = properties;
  const {message} = shown;
  const isEditing = useSignal(readEdit(conversation, message.id) !== '');
  const editButton = `#message-${message.id} .edit`;
  const close = (): void => {
    isEditing.value = false;
    requestAnimationFrame(() => document.querySelector<HTMLElement>(editButton)?.focus());
  };
  if (isEditing.value) return <QuestionForm conversation={conversation} message={message} onClose={close} />;
  return (
    <article id={`message-${message.id}`} class={classOf(properties, 'question')}>
      <h2 class="visually-hidden">{t('chat.you')}</h2>
      <AttachmentList attachments={message.attachments} />
      {message.content && <div class="text bubble" dir="auto">{message.content}</div>}
      <div class="message-actions">
        <Versions shown={shown} />
        <CopyButton text={message.content} label={t('chat.copy')} />
        <IconButton icon="edit" class="edit" label={t('chat.edit')} disabled={answerObstacle.value === 'answer'} onClick={() => { isEditing.value = true; }} />
      </div>
    </article>
  );
}

interface QuestionFormProperties {
  readonly conversation: Id;
  readonly message: Message;
  readonly onClose: () => void;
}

function QuestionForm({conversation, message, onClose}: QuestionFormProperties): VNode {
  const area = useRef<HTMLTextAreaElement>(null);
  // At once: who types before the next frame would write at the end otherwise.
  useLayoutEffect(() => {
    area.current?.focus();
    area.current?.setSelectionRange(area.current.value.length, area.current.value.length);
  }, []);
  const close = (): void => {
    writeEdit(conversation, message.id, '');
    onClose();
  };
  const sending = useSending(answerObstacle.value, () => {
    const content = area.current?.value.trim() ?? '';
    if (!content && message.attachments.length === 0) return;
    close();
    void sendEdited(message.id, content, message.attachments);
  });
  return (
    <article id={`message-${message.id}`} class="message question editing">
      <form onSubmit={event => { event.preventDefault(); sending.request(); }}>
        <AttachmentList attachments={message.attachments} />
        <textarea
          ref={area}
          class="edit-message"
          aria-label={t('chat.edit')}
          dir="auto"
          defaultValue={readEdit(conversation, message.id) || message.content}
          onInput={event => {
            sending.cancel();
            writeEdit(conversation, message.id, event.currentTarget.value);
          }}
          onKeyDown={event => { if (event.key === 'Escape' && !event.isComposing) close(); }}
        />
        <p class="soft">{t('chat.editHint')}</p>
        <SendNotice held={sending.held} />
        <div class="buttons">
          <button type="button" onClick={close}>{t('app.cancel')}</button>
          <button class="main">{t('chat.save')}</button>
        </div>
      </form>
    </article>
  );
}

function Response(properties: MessageProperties): VNode {
  const {shown, isLast} = properties;
  const {message} = shown;
  const isStreaming = message.state === 'streaming';
  const answer = isStreaming ? answers.of(message.id) : undefined;
  return (
    <article id={`message-${message.id}`} class={classOf(properties, 'response')} aria-busy={isStreaming}>
      <h2>{message.model}</h2>
      <ResponseBody message={message} answer={answer} />
      <Ending message={message} />
      {!isStreaming && <ResponseActions shown={shown} isLast={isLast} />}
    </article>
  );
}

function ResponseActions({shown, isLast}: Pick<MessageProperties, 'shown' | 'isLast'>): VNode {
  const {message} = shown;
  const obstacle = answerObstacle.value;
  const wanted = useRef(retry); // of the two, what the person asked for last
  const {held, request} = useSending(obstacle, () => void wanted.current(message.id));
  const ask = (what: typeof retry): void => {
    wanted.current = what;
    request();
  };
  return (
    <>
      <AnswerNotice held={held} />
      <div class="message-actions">
        <Versions shown={shown} />
        <CopyButton text={message.content} label={t('chat.copy')} />
        <IconButton icon="retry" class="retry" label={t('chat.retry')} disabled={obstacle === 'answer'} onClick={() => ask(retry)} />
        {isLast && message.content && (
          <Button kind="plain" icon="forward" onClick={() => ask(continueAnswer)}>{t('chat.continue')}</Button>
        )}
      </div>
    </>
  );
}

/** While an answer arrives, this alone is rendered again with each frame. It stays when the answer is complete. */
function ResponseBody({message, answer}: {readonly message: Message; readonly answer: Answer | undefined}): VNode {
  // An answer that is read again begins at its beginning, which is stored already.
  const content = choose(answer?.content.value, message.content, answer?.texts.content);
  const thinking = choose(answer?.thinking.value, message.thinking, answer?.texts.thinking);
  const toolCalls = answer?.toolCalls.value.length ? answer.toolCalls.value : message.toolCalls;
  const isStreaming = message.state === 'streaming';
  return (
    <>
      {answer && content.text === '' && thinking.text === '' && <Waiting answer={answer} />}
      <Body content={content} thinking={thinking} toolCalls={toolCalls} isStreaming={isStreaming} />
      {answer && <Interruption id={message.id} answer={answer} />}
    </>
  );
}

function Waiting({answer}: {readonly answer: Answer}): VNode | null {
  return answer.silentSince.value === null ? <WaitingTime since={answer.startedAt} /> : null;
}

const SILENCE_CHECK_MS = 5_000;

/** Says that the connection is away; after a while, it asks the person what to do. The answer goes on all the same when it is back. */
function Interruption({id, answer}: {readonly id: Id; readonly answer: Answer}): VNode | null {
  const isInterrupted = answer.silentSince.value !== null;
  const now = useNow(isInterrupted ? SILENCE_CHECK_MS : null);
  if (!isInterrupted) return null;
  return (
    <>
      <p class="reconnecting">{describeInterruption(answer, now)}</p>
      {isSilent(answer, now) && (
        <div class="buttons start silent-answer">
          <Button icon="retry" onClick={() => answers.retryNow(id)}>{t('chat.retryNow')}</Button>
          <Button icon="stop" onClick={() => stopAnswer(id)}>{t('chat.stopWaiting')}</Button>
        </div>
      )}
    </>
  );
}

interface ShownText {
  readonly text: string;
  /** What the text is the beginning of, while it arrives. */
  readonly source: GrowingText | undefined;
}

/** Returns the longer one of what has arrived and what is stored. */
function choose(arrived: string | undefined, stored: string, source: GrowingText | undefined): ShownText {
  return arrived !== undefined && arrived.length >= stored.length ? {text: arrived, source} : {text: stored, source: undefined};
}

interface BodyProperties {
  readonly content: ShownText;
  readonly thinking: ShownText;
  readonly toolCalls: readonly ToolCall[];
  readonly isStreaming: boolean;
}

function Body({content, thinking, toolCalls, isStreaming}: BodyProperties): VNode {
  return (
    <>
      {thinking.text && (
        <details class="thinking">
          <summary>{isStreaming && content.text === '' ? t('chat.thinking') : t('chat.thoughts')}</summary>
          <Thoughts {...thinking} />
        </details>
      )}
      <div class="text" dir="auto"><Markdown {...content} isStreaming={isStreaming} /></div>
      {toolCalls.map((call, index) => <ToolCallView key={index} call={call} />)}
    </>
  );
}

/** Plain text: it is appended to, whatever its length. */
function Thoughts({text, source}: ShownText): VNode {
  const host = useRef<HTMLDivElement>(null);
  const view = useRef<PlainTextView | null>(null);
  useLayoutEffect(() => {
    if (host.current) (view.current ??= new PlainTextView(host.current)).show(text, source);
  }, [text]);
  return <div class="thoughts" dir="auto" ref={host} />;
}

function ToolCallView({call}: {readonly call: ToolCall}): VNode {
  return (
    <details class="tool-call">
      <summary><Icon name="settings" />{t('chat.toolCall', {name: visibleText(call.name)})}</summary>
      <pre dir="ltr" tabIndex={0}>{visibleText(JSON.stringify(call.arguments, null, 2))}</pre>
    </details>
  );
}

function ToolResult(properties: MessageProperties): VNode {
  const {message} = properties.shown;
  return (
    <article id={`message-${message.id}`} class={classOf(properties, 'tool-result')}>
      <details class="tool-call">
        <summary><Icon name="settings" />{t('chat.tool', {name: visibleText(message.toolName)})}</summary>
        <pre dir="auto" tabIndex={0}>{visibleText(message.content)}</pre>
      </details>
    </article>
  );
}

function Ending({message}: {readonly message: Message}): VNode | null {
  const {state, error, content} = message;
  const isPartial = content !== '';
  if (state === 'streaming') return null;
  if (state === 'complete') {
    return <p class="end complete soft"><span class="visually-hidden">{t('chat.complete')} </span>{message.statistics && describe(message.statistics)}</p>;
  }
  const reason = state === 'stopped' ? t('chat.stopped') : t('chat.error', {reason: error});
  const text = isPartial ? t('chat.incomplete', {reason}) : reason;
  return <p class={`end ${state === 'stopped' ? 'stopped soft' : 'broken error'}`}>{text}</p>;
}

function describe(statistics: Statistics): string {
  const {tokens, totalDuration, duration, loadDuration} = statistics;
  const speed = tokensPerSecond(statistics);
  const seconds = (totalDuration || duration) / 1e9;
  return [
    tokens > 0 ? plural('chat.tokens', tokens) : '',
    seconds >= 0.05 ? t('chat.inTime', {time: formatSeconds(seconds)}) : '',
    loadDuration >= 1e9 ? t('chat.loadTime', {time: formatSeconds(loadDuration / 1e9)}) : '',
    speed === null ? '' : t('chat.speed', {speed: formatNumber(speed, speed < 10 ? 1 : 0)}),
  ].filter(Boolean).join(' · ');
}

function formatSeconds(seconds: number): string {
  return seconds < 10 ? `${formatNumber(seconds, 1)} s` : formatDuration(seconds);
}

function Versions({shown}: {readonly shown: ShownMessage}): VNode | null {
  const {message, versions} = shown;
  if (versions.length < 2) return null;
  const index = versions.indexOf(message.id);
  const show = (offset: number) => (): void => {
    const id = versions[index + offset];
    if (id) showVersion(id);
  };
  return (
    <span class="versions" role="group" aria-label={t('chat.versions')}>
      <IconButton icon="back" label={t('chat.previousVersion')} disabled={index === 0} onClick={show(-1)} />
      <span>{t('chat.version', {index: index + 1, count: versions.length})}</span>
      <IconButton icon="forward" label={t('chat.nextVersion')} disabled={index === versions.length - 1} onClick={show(1)} />
    </span>
  );
}

function AttachmentList({attachments}: {readonly attachments: readonly Attachment[]}): VNode | null {
  if (attachments.length === 0) return null;
  return (
    <ul class="attachments" aria-label={t('chat.attachments')}>
      {attachments.map((each, index) => (
        <li key={index}>{each.kind === 'image' ? <img src={imageUrl(each)} alt={each.name} /> : <span class="file"><Icon name="attach" />{each.name}</span>}</li>
      ))}
    </ul>
  );
}
