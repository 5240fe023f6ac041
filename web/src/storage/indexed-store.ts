/** Conversations in IndexedDB: one database for each user.
 *
 * Heads, messages and attachments are records of their own: a token costs no write of the whole conversation, the list
 * reads summaries only, and the search reads no images.
 */
import {isTerminal, type Attachment, type Conversation, type ConversationHead, type Id, type Message} from './conversation';
import {mergeConversations, mergeMessage} from './merge';
import type {SearchableMessage} from './search-index';
import {
  asConversation, type Change, type ConversationStore, type Deletion, type DesktopRecord, type Snapshot, type StoredSummary, type SyncRecord,
  type Written,
} from './store';

const VERSION = 1;
const STORES = ['summaries', 'heads', 'messages', 'attachments', 'deletions', 'desktops', 'syncRecords'] as const;
type StoreName = (typeof STORES)[number];
const CONTENT: readonly StoreName[] = ['summaries', 'heads', 'messages', 'attachments', 'deletions'];

const KEYS: Readonly<Record<StoreName, string | string[]>> = {
  summaries: 'id',
  heads: 'id',
  messages: ['conversation', 'id'],
  attachments: ['conversation', 'message'],
  deletions: 'id',
  desktops: 'id',
  syncRecords: ['desktop', 'conversation'],
};

/** What is stored of a summary; `runningIds` are the messages that stream. */
type SummaryRecord = Omit<StoredSummary, 'running'> & {readonly runningIds: readonly Id[]};

/** A message, whose attachments are in a store of their own. */
export type MessageRecord = Omit<Message, 'attachments'> & {readonly conversation: Id; readonly attachmentCount: number};

interface AttachmentsRecord {
  readonly conversation: Id;
  readonly message: Id;
  readonly attachments: readonly Attachment[];
}

/** The database is open in another tab with an older version of the page. */
export class DatabaseBlocked extends Error {
  override readonly name = 'DatabaseBlocked';
}

export function databaseName(userId: string): string {
  return `ctllm-conversations-${userId}`;
}

/** Opens the database of a user. `onLost` is called when the browser closed it, or a newer page needs it. */
export async function openIndexedStore(userId: string, onLost: () => void = () => {}): Promise<IndexedStore> {
  const name = databaseName(userId);
  const database = await new Promise<IDBDatabase>((resolve, reject) => {
    const opening = indexedDB.open(name, VERSION);
    opening.onupgradeneeded = () => createStores(opening.result);
    opening.onsuccess = () => resolve(opening.result);
    opening.onerror = () => reject(opening.error ?? new Error('The database cannot be opened.'));
    opening.onblocked = () => reject(new DatabaseBlocked());
  });
  const lose = (): void => {
    database.close();
    onLost();
  };
  database.onversionchange = lose;
  database.onclose = lose;
  return new IndexedStore(database);
}

function createStores(database: IDBDatabase): void {
  for (const name of STORES) {
    if (!database.objectStoreNames.contains(name)) database.createObjectStore(name, {keyPath: KEYS[name]});
  }
}

/** Removes the database of a user. */
export function deleteDatabase(name: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const deleting = indexedDB.deleteDatabase(name);
    deleting.onsuccess = () => resolve();
    deleting.onerror = () => reject(deleting.error ?? new Error('The database cannot be deleted.'));
  });
}

export class IndexedStore implements ConversationStore {
  constructor(private readonly database: IDBDatabase) {}

  async loadSummaries(): Promise<readonly StoredSummary[]> {
    return this.#run(['summaries', 'deletions'], 'readonly', async stores => {
      const [records, deleted] = await Promise.all([
        resultOf<SummaryRecord[]>(stores('summaries').getAll()), resultOf<IDBValidKey[]>(stores('deletions').getAllKeys()),
      ]);
      const gone = new Set(deleted);
      return records.filter(({id}) => !gone.has(id)).map(asSummary);
    });
  }

  async load(id: Id): Promise<Snapshot | null> {
    return this.#run(CONTENT, 'readonly', async stores => {
      const all = IDBKeyRange.bound([id], [id, []]);
      const [deletion, summary, head, records, attachments] = await Promise.all([
        resultOf<Deletion | undefined>(stores('deletions').get(id)),
        resultOf<SummaryRecord | undefined>(stores('summaries').get(id)),
        resultOf<ConversationHead | undefined>(stores('heads').get(id)),
        resultOf<MessageRecord[]>(stores('messages').getAll(all)),
        resultOf<AttachmentsRecord[]>(stores('attachments').getAll(all)),
      ]);
      if (deletion || !head || !summary) return null;
      const byMessage = new Map(attachments.map(record => [record.message, record.attachments]));
      const messages = records.map(record => fromRecord(record, byMessage.get(record.id) ?? []));
      return {conversation: asConversation({head, messages}), changes: summary.changes};
    });
  }

  async loadPart(id: Id, messages: readonly Id[]): Promise<Change | null> {
    return this.#run(CONTENT, 'readonly', async stores => {
      const [deletion, head, ...found] = await Promise.all([
        resultOf<Deletion | undefined>(stores('deletions').get(id)),
        resultOf<ConversationHead | undefined>(stores('heads').get(id)),
        ...messages.map(message => readMessage(stores, id, message)),
      ]);
      return deletion || !head ? null : {head, messages: found.filter(message => message !== null)};
    });
  }

  async loadTexts(ids: readonly Id[]): Promise<readonly SearchableMessage[]> {
    return this.#run(['messages'], 'readonly', async stores => {
      const found = await Promise.all(ids.map(id => resultOf<MessageRecord[]>(stores('messages').getAll(IDBKeyRange.bound([id], [id, []])))));
      return found.flat();
    });
  }

  async write(change: Change): Promise<Written | null> {
    return this.#run(CONTENT, 'readwrite', async stores => {
      const {id} = change.head;
      const [deletion, summary, head] = await Promise.all([
        resultOf<Deletion | undefined>(stores('deletions').get(id)),
        resultOf<SummaryRecord | undefined>(stores('summaries').get(id)),
        resultOf<ConversationHead | undefined>(stores('heads').get(id)),
      ]);
      // Nothing is to be merged with a conversation that is new, as many of an import are.
      const stored = head ? await Promise.all(change.messages.map(message => readMessage(stores, id, message.id))) : [];
      if (deletion) return null;
      const fresh = change.messages.filter((message, index) => isFresh(stored[index] ?? null, message));
      const merged = head ? mergeHeads(head, change.head) : change.head;
      const changesBefore = summary?.changes ?? 0;
      if (summary && merged === head && fresh.length === 0) return {summary: asSummary(summary), changesBefore};
      const known = new Set(stored.map(each => each?.id));
      const added = fresh.filter(message => !known.has(message.id)).length;
      const next = nextSummary(summary, merged, fresh, added);
      stores('summaries').put(next);
      stores('heads').put(merged);
      for (const message of fresh) putMessage(stores, id, message);
      return {summary: asSummary(next), changesBefore};
    });
  }

  async delete(deletion: Deletion): Promise<void> {
    await this.#run(['deletions'], 'readwrite', stores => resultOf(stores('deletions').put(deletion)));
  }

  async restore(id: Id): Promise<StoredSummary | null> {
    return this.#run(['summaries', 'deletions'], 'readwrite', async stores => {
      const summary = await resultOf<SummaryRecord | undefined>(stores('summaries').get(id));
      if (!summary) return null;
      stores('deletions').delete(id);
      return asSummary(summary);
    });
  }

  async purge(now: number): Promise<readonly Id[]> {
    return this.#run(CONTENT, 'readwrite', async stores => {
      const [deletions, kept] = await Promise.all([
        resultOf<Deletion[]>(stores('deletions').getAll()), resultOf<IDBValidKey[]>(stores('summaries').getAllKeys()),
      ]);
      const ids = new Set(kept);
      const gone = deletions.filter(each => each.undoUntil <= now).map(each => each.id);
      for (const id of gone.filter(each => ids.has(each))) {
        const all = IDBKeyRange.bound([id], [id, []]);
        stores('summaries').delete(id);
        stores('heads').delete(id);
        stores('messages').delete(all);
        stores('attachments').delete(all);
      }
      return gone;
    });
  }

  async loadDeletions(): Promise<readonly Deletion[]> {
    return this.#run(['deletions'], 'readonly', stores => resultOf<Deletion[]>(stores('deletions').getAll()));
  }

  async markTold(id: Id, desktop: string): Promise<void> {
    await this.#run(['deletions'], 'readwrite', async stores => {
      const deletion = await resultOf<Deletion | undefined>(stores('deletions').get(id));
      if (deletion && !deletion.told.includes(desktop)) stores('deletions').put({...deletion, told: [...deletion.told, desktop]});
    });
  }

  async loadDesktops(): Promise<readonly DesktopRecord[]> {
    return this.#run(['desktops'], 'readonly', stores => resultOf<DesktopRecord[]>(stores('desktops').getAll()));
  }

  async saveDesktop(desktop: DesktopRecord): Promise<void> {
    await this.#run(['desktops'], 'readwrite', stores => resultOf(stores('desktops').put(desktop)));
  }

  async loadSyncRecords(desktop: string): Promise<readonly SyncRecord[]> {
    const all = IDBKeyRange.bound([desktop], [desktop, []]);
    return this.#run(['syncRecords'], 'readonly', stores => resultOf<SyncRecord[]>(stores('syncRecords').getAll(all)));
  }

  async saveSyncRecord(record: SyncRecord): Promise<void> {
    await this.#run(['syncRecords'], 'readwrite', stores => resultOf(stores('syncRecords').put(record)));
  }

  async forgetSyncRecords(desktop: string): Promise<void> {
    const all = IDBKeyRange.bound([desktop], [desktop, []]);
    await this.#run(['syncRecords'], 'readwrite', stores => resultOf(stores('syncRecords').delete(all)));
  }

  close(): void {
    this.database.close();
  }

  /** Runs `work` in a transaction; resolves when that is complete. `work` awaits nothing but the requests in it. */
  async #run<T>(names: readonly StoreName[], mode: IDBTransactionMode, work: (stores: (name: StoreName) => IDBObjectStore) => Promise<T>): Promise<T> {
    const transaction = this.database.transaction(names, mode);
    const complete = new Promise<void>((resolve, reject) => {
      transaction.oncomplete = () => resolve();
      transaction.onabort = () => reject(transaction.error ?? new DOMException('The transaction was aborted.', 'AbortError'));
    });
    const [result] = await Promise.all([abortOnError(transaction, work(name => transaction.objectStore(name))), complete]);
    return result;
  }
}

type Stores = (name: StoreName) => IDBObjectStore;

async function abortOnError<T>(transaction: IDBTransaction, result: Promise<T>): Promise<T> {
  try {
    return await result;
  } catch (error) {
    try {
      transaction.abort();
    } catch {
      // It has been aborted already: that was the error.
    }
    throw transaction.error ?? error;
  }
}

function resultOf<T>(request: IDBRequest): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result as T);
    request.onerror = () => reject(request.error ?? new Error('The database reported an error.'));
  });
}

async function readMessage(stores: Stores, conversation: Id, id: Id): Promise<Message | null> {
  const record = await resultOf<MessageRecord | undefined>(stores('messages').get([conversation, id]));
  if (!record) return null;
  if (record.attachmentCount === 0) return fromRecord(record, []);
  const found = await resultOf<AttachmentsRecord | undefined>(stores('attachments').get([conversation, id]));
  return fromRecord(record, found?.attachments ?? []);
}

function putMessage(stores: Stores, conversation: Id, message: Message): void {
  const {attachments, ...rest} = message;
  stores('messages').put({...rest, conversation, attachmentCount: attachments.length} satisfies MessageRecord);
  if (attachments.length > 0) stores('attachments').put({conversation, message: message.id, attachments} satisfies AttachmentsRecord);
}

function fromRecord({conversation: _, attachmentCount: __, ...rest}: MessageRecord, attachments: readonly Attachment[]): Message {
  return {...rest, attachments};
}

function isFresh(stored: Message | null, message: Message): boolean {
  return !stored || mergeMessage(stored, message) !== stored;
}

function mergeHeads(stored: ConversationHead, head: ConversationHead): ConversationHead {
  const before: Conversation = {...stored, messages: {}};
  const after = mergeConversations(before, {...head, messages: before.messages});
  if (after === before) return stored;
  const {messages: _, ...merged} = after;
  return merged;
}

function nextSummary(before: SummaryRecord | undefined, head: ConversationHead, fresh: readonly Message[], added: number): SummaryRecord {
  const times = fresh.map(message => message.updatedAt);
  const changed = new Set(fresh.map(message => message.id));
  const running = fresh.filter(message => !isTerminal(message)).map(message => message.id);
  return {
    id: head.id,
    title: head.title.value,
    createdAt: head.createdAt,
    updatedAt: [...times, head.title.at].reduce((latest, time) => Math.max(latest, time), before?.updatedAt ?? head.createdAt),
    messages: (before?.messages ?? 0) + added,
    runningIds: [...(before?.runningIds ?? []).filter(id => !changed.has(id)), ...running],
    changes: (before?.changes ?? 0) + 1,
  };
}

function asSummary({runningIds, ...rest}: SummaryRecord): StoredSummary {
  return {...rest, running: runningIds.length};
}
