/** One synchronisation with one desktop: its changes are merged here, and the changes of this browser are sent.
 *
 * A write names the revision that it is based on. If another device was faster, the desktop refuses it; then both are
 * merged, and it is tried again. So nobody's words are lost.
 */
import {RequestError} from '../api/http';
import type {Conversation, Id} from './conversation';
import {mergeConversations} from './merge';
import {parseConversation} from './parse';
import type {ConversationRepository} from './repository';
import type {ConversationStore, Deletion, DesktopRecord, StoredSummary, SyncRecord} from './store';
import type {RemoteChange, SyncClient} from './sync-client';

export interface RoundOptions {
  readonly repository: ConversationRepository;
  readonly client: SyncClient;
  readonly desktop: DesktopRecord;
  readonly signal: AbortSignal;
  readonly now: number;
  /** Whether a conversation is sent now; one that streams is not sent each time. */
  readonly mayPush: (summary: StoredSummary) => boolean;
  readonly onProgress?: (left: number) => void;
}

export interface RoundResult {
  /** Conversations that this page cannot read, because a newer one wrote them, or they are damaged. */
  readonly unreadable: number;
  /** Conversations that the desktop does not accept, because they are too large. */
  readonly refused: number;
}

const MAX_CONCURRENT = 3;
const MAX_ATTEMPTS = 5;
/** Not a count of changes, so that the conversation is sent. */
const NOT_SENT = -1;

export async function runRound(options: RoundOptions): Promise<RoundResult> {
  await options.repository.flush();
  return new Round(options, await options.repository.store).run();
}

class Round {
  readonly #options: RoundOptions;
  readonly #store: ConversationStore;
  #records = new Map<Id, SyncRecord>();
  #unreadable = 0;
  #refused = 0;

  constructor(options: RoundOptions, store: ConversationStore) {
    this.#options = options;
    this.#store = store;
  }

  async run(): Promise<RoundResult> {
    const {client, desktop, signal, now} = this.#options;
    const listed = await client.list(desktop.id, desktop.revision, signal);
    // An older revision is of another folder, such as a backup: compare everything.
    const records = await this.#store.loadSyncRecords(desktop.id);
    const isReplaced = records.reduce((latest, {revision}) => Math.max(latest, revision), desktop.revision) > listed.revision;
    if (isReplaced) await this.#store.forgetSyncRecords(desktop.id);
    const changes = isReplaced ? await client.list(desktop.id, 0, signal) : listed;
    this.#records = new Map(isReplaced ? [] : records.map(record => [record.conversation, record]));
    const deletions = new Map((await this.#store.loadDeletions()).map(each => [each.id, each]));
    await this.#tellDeletions([...deletions.values()].filter(each => each.undoUntil <= now), changes.conversations);
    await this.#takeDeletions(changes.conversations, deletions);
    await this.#pullAll(changes.conversations.filter(each => !each.deleted && !deletions.has(each.id)));
    await this.#repair(changes.damaged);
    await this.#store.saveDesktop({...desktop, revision: changes.revision});
    await this.#pushAll();
    return {unreadable: this.#unreadable, refused: this.#refused};
  }

  /** Deletes on the desktop what was deleted here, if it has ever had it. */
  async #tellDeletions(deletions: readonly Deletion[], changes: readonly RemoteChange[]): Promise<void> {
    const {client, desktop, signal} = this.#options;
    const present = new Set(changes.filter(each => !each.deleted).map(each => each.id));
    const untold = deletions.filter(each => !each.told.includes(desktop.id) || present.has(each.id));
    await forEach(untold, async ({id}) => {
      if (present.has(id) || this.#records.has(id)) await client.delete(desktop.id, id, signal).catch(ignoreAbsence);
      await this.#store.markTold(id, desktop.id);
    });
  }

  async #takeDeletions(changes: readonly RemoteChange[], known: ReadonlyMap<Id, Deletion>): Promise<void> {
    const deleted = changes.filter(each => each.deleted && !known.has(each.id)).map(each => each.id);
    await this.#deleteHere(deleted);
  }

  async #deleteHere(ids: readonly Id[]): Promise<void> {
    if (ids.length === 0) return;
    this.#options.signal.throwIfAborted(); // of another user nothing is deleted
    await this.#options.repository.deleteNow(ids);
    for (const id of ids) await this.#store.markTold(id, this.#options.desktop.id);
  }

  async #pullAll(changes: readonly RemoteChange[]): Promise<void> {
    const fresh = changes.filter(each => this.#records.get(each.id)?.revision !== each.revision);
    let left = fresh.length;
    await forEach(fresh, async ({id}) => {
      await this.#pull(id);
      this.#options.onProgress?.(--left);
    });
  }

  /** Sends again what the desktop cannot read any more. */
  async #repair(damaged: readonly Id[]): Promise<void> {
    for (const id of damaged) {
      const snapshot = await this.#store.load(id);
      if (snapshot) await this.#record(id, this.#records.get(id)?.revision ?? 0, NOT_SENT);
      else this.#unreadable += 1;
    }
  }

  /** Merges the desktop's copy. */
  async #pull(id: Id): Promise<void> {
    const {client, repository, desktop, signal} = this.#options;
    const copy = await client.get(desktop.id, id, signal).catch(ignoreDamage);
    if (!copy) return;
    const remote = copy === 'damaged' ? 'invalid' : parseConversation(copy.document);
    if (copy === 'damaged' || typeof remote === 'string' || remote.id !== id) {
      this.#unreadable += 1;
      return;
    }
    const snapshot = await repository.snapshot(id);
    signal.throwIfAborted();
    const written = await repository.mergeIn(remote);
    if (!written) return;
    // What was written here in between is not in the snapshot, and makes `changesBefore` another.
    const isSame = (snapshot?.changes ?? 0) === written.changesBefore && isContained(snapshot?.conversation, remote);
    await this.#record(id, copy.revision, isSame ? written.summary.changes : NOT_SENT);
  }

  async #pushAll(): Promise<void> {
    const summaries = await this.#store.loadSummaries();
    const changed = summaries.filter(each => this.#records.get(each.id)?.changes !== each.changes && this.#options.mayPush(each));
    let left = changed.length;
    await forEach(changed, async ({id}) => {
      await this.#push(id);
      this.#options.onProgress?.(--left);
    });
  }

  async #push(id: Id): Promise<void> {
    for (let attempt = 1; attempt <= MAX_ATTEMPTS; attempt++) {
      const snapshot = await this.#options.repository.snapshot(id);
      const record = this.#records.get(id);
      if (!snapshot || record?.changes === snapshot.changes) return;
      const isDone = await this.#put(snapshot.conversation, record?.revision ?? 0, snapshot.changes);
      if (isDone) return;
    }
  }

  /** Sends a conversation; returns false if the desktop has another revision, which is merged then. */
  async #put(conversation: Conversation, revision: number, changes: number): Promise<boolean> {
    const {client, desktop, signal} = this.#options;
    try {
      await this.#record(conversation.id, await client.put(desktop.id, conversation, revision, signal), changes);
      return true;
    } catch (error) {
      if (!(error instanceof RequestError)) throw error;
      if (error.status === 413 || error.status === 400) this.#refused += 1;
      else if (error.status === 410) await this.#deleteHere([conversation.id]);
      else if (error.status === 412) {
        await this.#record(conversation.id, 0, NOT_SENT); // if it is gone there, it is sent as a new one
        await this.#pull(conversation.id);
        return false;
      } else throw error;
      return true;
    }
  }

  async #record(conversation: Id, revision: number, changes: number): Promise<void> {
    const record = {desktop: this.#options.desktop.id, conversation, revision, changes};
    this.#records.set(conversation, record);
    this.#options.signal.throwIfAborted();
    await this.#store.saveSyncRecord(record);
  }
}

/** Whether the desktop's copy says all that ours says. */
function isContained(ours: Conversation | undefined, theirs: Conversation): boolean {
  return !ours || mergeConversations(theirs, ours) === theirs;
}

/** Absent and deleted are as good as each other here; other errors are thrown. */
function ignoreAbsence(error: unknown): null {
  if (error instanceof RequestError && (error.status === 404 || error.status === 410)) return null;
  throw error;
}

function ignoreDamage(error: unknown): null | 'damaged' {
  return error instanceof RequestError && error.code === 'conversation_damaged' ? 'damaged' : ignoreAbsence(error);
}

/** Calls `work` for each item, a few at a time; throws the first error when all have ended. */
async function forEach<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  const queue = items.values();
  let failure: {readonly error: unknown} | null = null;
  const worker = async (): Promise<void> => {
    for (const item of queue) {
      if (failure) return;
      await work(item).catch((error: unknown) => { failure ??= {error}; });
    }
  };
  await Promise.all(Array.from({length: MAX_CONCURRENT}, worker));
  const failed = failure as {readonly error: unknown} | null;
  if (failed) throw failed.error;
}
