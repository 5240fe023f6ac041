/** What a person can do with conversations beside reading and writing them. */
import {effect, signal} from '@preact/signals';
import {navigate, route} from '../app/router';
import {plural, t} from '../i18n/i18n';
import {askToConfirm} from '../ui/confirmation';
import {showToast} from '../ui/toast';
import type {ConversationSummary, Id} from './conversation';
import {conversations} from './conversations';
import {UNDO_DELAY_MS} from './repository';
import {shownTitle} from './title';

/** What was deleted a moment ago, so that it can be undone; null if nothing was. */
export const lastDeleted = signal<{readonly ids: readonly Id[]; readonly title: string} | null>(null);

/** An import of a file of this size takes seconds. */
const SLOW_SIZE = 2_000_000;

let timer: ReturnType<typeof setTimeout> | undefined;

export type FileFormat = 'json' | 'markdown';

export async function deleteConversation({id, title}: Pick<ConversationSummary, 'id' | 'title'>): Promise<void> {
  await deleteAll([id], shownTitle(title));
}

export async function deleteEverything(): Promise<void> {
  const ids = conversations.summaries.peek().map(each => each.id);
  const count = plural('storage.count', ids.length);
  const isConfirmed = await askToConfirm({title: t('storage.deleteAll.title'), text: t('storage.deleteAll.text', {count}), action: t('storage.deleteAll.action'), isDangerous: true});
  if (isConfirmed) await deleteAll(ids, count);
}

async function deleteAll(ids: readonly Id[], title: string): Promise<void> {
  if (ids.includes(route.peek().id)) navigate('chat', '', {replace: true});
  const owner = conversations.userId.peek();
  await conversations.delete(ids);
  if (conversations.userId.peek() !== owner) return;
  lastDeleted.value = {ids, title};
  clearTimeout(timer);
  timer = setTimeout(() => { lastDeleted.value = null; }, UNDO_DELAY_MS - 500);
}

export async function undoDelete(): Promise<void> {
  const deleted = lastDeleted.peek();
  lastDeleted.value = null;
  const restored = await Promise.all((deleted?.ids ?? []).map(id => conversations.restore(id)));
  if (restored.includes(false)) showToast(t('storage.undoTooLate'), 'error');
}

/** What one person has deleted is not shown to the next one. */
effect(() => {
  void conversations.userId.value;
  lastDeleted.value = null;
});

/** Saves conversations as a file. */
export async function exportConversations(ids: readonly Id[], title: string, format: FileFormat): Promise<void> {
  const {exportJson, exportMarkdown, fileName, saveFile} = await import('./export');
  const load = async (id: Id) => (await conversations.snapshot(id))?.conversation ?? null;
  const file = format === 'json' ? await exportJson(ids, load, Date.now()) : await exportMarkdown(ids, load);
  saveFile(file, fileName(title, format === 'json' ? 'json' : 'md'));
}

export async function exportEverything(format: FileFormat): Promise<void> {
  const ids = conversations.summaries.peek().map(each => each.id);
  await exportConversations(ids, `ctllm ${new Date().toISOString().slice(0, 10)}`, format);
}

/** Asks for files, and imports them. */
export function chooseFiles(): void {
  const input = document.createElement('input');
  input.type = 'file';
  input.accept = '.json,.md,application/json,text/markdown';
  input.multiple = true;
  input.addEventListener('change', () => void importFiles([...(input.files ?? [])]));
  input.click();
}

export async function importFiles(files: readonly File[]): Promise<void> {
  const {importFile, ImportError} = await import('./import');
  for (const file of files) {
    if (file.size > SLOW_SIZE) showToast(t('storage.importing', {file: file.name}));
    try {
      const {added, merged, rejected} = await importFile(file, conversations);
      const parts = [t('storage.imported', {file: file.name, added, merged}), ...(rejected > 0 ? [t('storage.rejected', {rejected})] : [])];
      showToast(parts.join(' '));
    } catch (error) {
      const problem = error instanceof ImportError ? error.problem : 'notStored';
      showToast(t(`storage.import.${problem}`, {file: file.name}), 'error');
    }
  }
}
