/** Conversations in the memory of this tab: for as long as it is open. */
import {summarize, type Conversation, type Id} from './conversation';
import {mergeConversations} from './merge';
import type {SearchableMessage} from './search-index';
import {
  asConversation, changeBetween, type Change, type ConversationStore, type Deletion, type DesktopRecord, type Snapshot, type StoredSummary,
  type SyncRecord, type Written,
} from './store';

export class MemoryStore implements ConversationStore {
  readonly #conversations = new Map<Id, Snapshot>();
  readonly #deletions = new Map<Id, Deletion>();
  readonly #desktops = new Map<string, DesktopRecord>();
  readonly #syncRecords = new Map<string, SyncRecord>();

  async loadSummaries(): Promise<readonly StoredSummary[]> {
    return [...this.#conversations.values()].filter(({conversation}) => !this.#deletions.has(conversation.id)).map(summaryOf);
  }

  async load(id: Id): Promise<Snapshot | null> {
    return this.#deletions.has(id) ? null : this.#conversations.get(id) ?? null;
  }

  async loadPart(id: Id, messages: readonly Id[]): Promise<Change | null> {
    const snapshot = await this.load(id);
    if (!snapshot) return null;
    const {head, messages: all} = changeBetween(null, snapshot.conversation);
    return {head, messages: all.filter(message => messages.includes(message.id))};
  }

  async loadTexts(ids: readonly Id[]): Promise<readonly SearchableMessage[]> {
    const found = await Promise.all(ids.map(id => this.load(id)));
    return found.flatMap(each => Object.values(each?.conversation.messages ?? {}).map(message => ({...message, conversation: each?.conversation.id ?? ''})));
  }

  async write(change: Change): Promise<Written | null> {
    const {id} = change.head;
    if (this.#deletions.has(id)) return null;
    const before = this.#conversations.get(id);
    const merged = before ? mergeConversations(before.conversation, asConversation(change)) : asConversation(change);
    const changesBefore = before?.changes ?? 0;
    const snapshot = {conversation: merged, changes: merged === before?.conversation ? changesBefore : changesBefore + 1};
    this.#conversations.set(id, snapshot);
    return {summary: summaryOf(snapshot), changesBefore};
  }

  async delete(deletion: Deletion): Promise<void> {
    this.#deletions.set(deletion.id, deletion);
  }

  async restore(id: Id): Promise<StoredSummary | null> {
    const snapshot = this.#conversations.get(id);
    if (!snapshot) return null;
    this.#deletions.delete(id);
    return summaryOf(snapshot);
  }

  async purge(now: number): Promise<readonly Id[]> {
    const gone = [...this.#deletions.values()].filter(({undoUntil}) => undoUntil <= now).map(({id}) => id);
    for (const id of gone) this.#conversations.delete(id);
    return gone;
  }

  async loadDeletions(): Promise<readonly Deletion[]> {
    return [...this.#deletions.values()];
  }

  async markTold(id: Id, desktop: string): Promise<void> {
    const deletion = this.#deletions.get(id);
    if (deletion && !deletion.told.includes(desktop)) this.#deletions.set(id, {...deletion, told: [...deletion.told, desktop]});
  }

  async loadDesktops(): Promise<readonly DesktopRecord[]> {
    return [...this.#desktops.values()];
  }

  async saveDesktop(desktop: DesktopRecord): Promise<void> {
    this.#desktops.set(desktop.id, desktop);
  }

  async loadSyncRecords(desktop: string): Promise<readonly SyncRecord[]> {
    return [...this.#syncRecords.values()].filter(record => record.desktop === desktop);
  }

  async saveSyncRecord(record: SyncRecord): Promise<void> {
    this.#syncRecords.set(`${record.desktop} ${record.conversation}`, record);
  }

  async forgetSyncRecords(desktop: string): Promise<void> {
    for (const [key, record] of this.#syncRecords) if (record.desktop === desktop) this.#syncRecords.delete(key);
  }

  close(): void {}
}

function summaryOf({conversation, changes}: {readonly conversation: Conversation; readonly changes: number}): StoredSummary {
  return {...summarize(conversation), changes};
}
