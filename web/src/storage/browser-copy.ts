/** What happens to this browser's copy when somebody logs out.
 *
 * It stays, and is not shown to anybody else: the next log-in of the same person finds it without a desktop. On a
 * computer that several people use, they can choose that it is deleted instead: whoever has the files of the browser
 * can read it.
 */
import {signal} from '@preact/signals';
import {forgetDrafts} from '../chat/drafts';
import {t} from '../i18n/i18n';
import {askToConfirm} from '../ui/confirmation';
import {conversations} from './conversations';
import {databaseName, deleteDatabase} from './indexed-store';
import {forgetUnread} from './unread';

const STORED_AS = 'ctllm.forget-conversations';

/** Whether this browser's copy is deleted at the log-out. */
export const forgetsAtLogOut = signal(readStored());

export function setForgetsAtLogOut(value: boolean): void {
  forgetsAtLogOut.value = value;
  try {
    if (value) localStorage.setItem(STORED_AS, 'yes');
    else localStorage.removeItem(STORED_AS);
  } catch {
    // The browser forbids to store anything: then it has no copy either.
  }
}

function readStored(): boolean {
  try {
    return localStorage.getItem(STORED_AS) === 'yes';
  } catch {
    return false;
  }
}

/** Returns how many conversations no desktop has as they are here. */
export async function countUnsynchronised(): Promise<number> {
  const store = await conversations.store;
  const synchronised = new Set<string>();
  for (const {id, mode} of await store.loadDesktops()) {
    if (mode !== 'on') continue;
    for (const {conversation, changes} of await store.loadSyncRecords(id)) synchronised.add(`${conversation} ${changes}`);
  }
  return (await store.loadSummaries()).filter(({id, changes}) => !synchronised.has(`${id} ${changes}`)).length;
}

/** Logs out with `logOut`, and deletes this browser's copy if the person wants that. They may cancel it if something would be lost. */
export async function logOutWithCopy(logOut: () => Promise<void>, isLoggedOut: () => boolean): Promise<void> {
  const userId = conversations.userId.peek();
  const forgets = forgetsAtLogOut.peek() && userId !== '';
  if (forgets && !(await confirmLoss())) return;
  await logOut();
  if (!forgets || !isLoggedOut()) return;
  await conversations.switchUser('');
  forgetDrafts(userId);
  forgetUnread(userId);
  await deleteDatabase(databaseName(userId));
}

async function confirmLoss(): Promise<boolean> {
  await conversations.flush();
  const count = await countUnsynchronised().catch(() => 0);
  if (count === 0) return true;
  return askToConfirm({title: t('storage.logOut.title'), text: t('storage.logOut.loss', {count}), action: t('storage.logOut.action'), isDangerous: true});
}
