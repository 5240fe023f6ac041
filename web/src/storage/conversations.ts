/** The conversations of this page. */
import {effect} from '@preact/signals';
import {forgetDraftsOf} from '../chat/drafts';
import {user} from '../session/session';
import {DatabaseBlocked, openIndexedStore} from './indexed-store';
import {MemoryStore} from './memory-store';
import {ConversationRepository, type StorageState, type TabChannel, type TabMessage} from './repository';
import type {ConversationStore} from './store';
import {markRead} from './unread';

async function openStore(userId: string, onLost: () => void): Promise<{readonly store: ConversationStore; readonly state: StorageState}> {
  try {
    return {store: await openIndexedStore(userId, onLost), state: 'kept'};
  } catch (error) {
    console.warn('This browser keeps no conversations.', error);
    return {store: new MemoryStore(), state: error instanceof DatabaseBlocked ? 'blocked' : 'forbidden'};
  }
}

function openChannel(userId: string, onMessage: (message: TabMessage) => void): TabChannel {
  const channel = new BroadcastChannel(`ctllm-conversations-${userId}`);
  channel.onmessage = (event: MessageEvent<TabMessage>) => onMessage(event.data);
  return {send: message => channel.postMessage(message), close: () => channel.close()};
}

export const conversations = new ConversationRepository({openStore, openChannel});

/** Asks the browser not to clear the database when the device runs out of room. */
async function persist(): Promise<void> {
  const storage = navigator.storage as StorageManager | undefined; // undefined without HTTPS
  if (storage && !(await storage.persisted().catch(() => true))) await storage.persist().catch(() => false);
}

/** Follows the session, writes what is left when the page is hidden, and forgets what belongs to deleted conversations. Returns a function that ends that. */
export function watchConversations(): () => void {
  const dispose = effect(() => {
    const id = user.value?.id ?? '';
    void conversations.switchUser(id).catch((error: unknown) => console.warn('The conversations cannot be opened.', error));
  });
  const stopPersisting = conversations.onStored(() => {
    stopPersisting();
    if (conversations.state.peek() === 'kept') void persist();
  });
  const stopForgetting = conversations.onPurged(ids => {
    forgetDraftsOf(ids);
    markRead(ids);
  });
  const write = (): void => void conversations.flush();
  addEventListener('pagehide', write);
  document.addEventListener('visibilitychange', write);
  return () => {
    dispose();
    stopPersisting();
    stopForgetting();
    removeEventListener('pagehide', write);
    document.removeEventListener('visibilitychange', write);
  };
}
