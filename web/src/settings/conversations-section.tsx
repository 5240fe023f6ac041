/** The conversations in this browser: files of them, and the deletion of all. */
import {useSignal} from '@preact/signals';
import type {VNode} from 'preact';
import {useRef} from 'preact/hooks';
import {plural, t} from '../i18n/i18n';
import {conversations} from '../storage/conversations';
import {exportJson, exportMarkdown, fileName, saveFile, type Load} from '../storage/export';
import {ImportError, importFile} from '../storage/import';
import {showsSyncDialog} from '../storage/sync-status';
import {Button} from '../ui/button';
import {askToConfirm} from '../ui/confirmation';
import {showToast} from '../ui/toast';
import {Section} from '../ui/view';

const load: Load = async id => (await conversations.snapshot(id))?.conversation ?? null;
const today = (): string => new Date().toISOString().slice(0, 10);

export function ConversationsSection(): VNode {
  const file = useRef<HTMLInputElement>(null);
  const isBusy = useSignal(false);
  const ids = conversations.summaries.value.map(({id}) => id);
  const hasNone = ids.length === 0;
  const work = async (act: () => Promise<void>): Promise<void> => {
    isBusy.value = true;
    try {
      await act();
    } finally {
      isBusy.value = false;
    }
  };
  const save = (format: 'json' | 'md'): Promise<void> => work(async () => {
    const content = format === 'json' ? await exportJson(ids, load, Date.now()) : await exportMarkdown(ids, load);
    saveFile(content, fileName(`ctllm ${today()}`, format));
  });
  const deleteAll = async (): Promise<void> => {
    const question = {title: t('settings.deleteAllTitle'), text: t('settings.deleteAllText'), action: t('settings.deleteAll'), isDangerous: true};
    if (!(await askToConfirm(question))) return;
    await work(() => conversations.deleteNow(ids));
    showToast(t('settings.allDeleted'));
  };
  return (
    <Section id="settings-conversations" title={t('settings.conversations')} explanation={t('settings.conversationsExplained')}>
      <p>{plural('settings.keptHere', ids.length)}</p>
      <div class="buttons start">
        <Button icon="settings" onClick={() => { showsSyncDialog.value = true; }}>{t('settings.where')}</Button>
        <Button icon="download" disabled={hasNone} busy={isBusy.value} onClick={() => void save('json')}>{t('settings.export')}</Button>
        <Button icon="download" disabled={hasNone} busy={isBusy.value} onClick={() => void save('md')}>{t('settings.exportMarkdown')}</Button>
        <Button icon="upload" busy={isBusy.value} onClick={() => file.current?.click()}>{t('settings.import')}</Button>
        <Button icon="delete" kind="danger" disabled={hasNone} busy={isBusy.value} onClick={() => void deleteAll()}>{t('settings.deleteAll')}</Button>
      </div>
      <input
        ref={file}
        type="file"
        hidden
        accept=".json,.md,application/json,text/markdown"
        aria-label={t('settings.import')}
        onChange={event => {
          const input = event.currentTarget;
          const chosen = input.files?.[0];
          if (chosen) void work(() => importChosen(chosen));
          input.value = ''; // so that the same file can be chosen again
        }}
      />
    </Section>
  );
}

async function importChosen(file: File): Promise<void> {
  try {
    const {added, merged, rejected} = await importFile(file, conversations);
    const text = plural('settings.imported', added + merged);
    showToast(rejected ? `${text} ${plural('settings.rejected', rejected)}` : text);
  } catch (error) {
    if (!(error instanceof ImportError)) throw error;
    showToast(t(`settings.import.${error.problem}`), 'error');
  }
}
