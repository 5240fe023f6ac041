/** What keeps conversations: IndexedDB, or the memory of this tab where the browser forbids that. */
import type {Conversation, ConversationHead, ConversationSummary, Id, Message} from './conversation';
import type {SearchableMessage} from './search-index';

/** What changed in a conversation: its head, and the messages that were added or changed. */
export interface Change {
  readonly head: ConversationHead;
  readonly messages: readonly Message[];
}

/** A summary with what the synchronisation has to know. */
export interface StoredSummary extends ConversationSummary {
  /** Counts the writes of this conversation. */
  readonly changes: number;
}

/** The outcome of a write; null if the conversation was deleted. */
export interface Written {
  readonly summary: StoredSummary;
  /** `changes` before the write; the same as after it if nothing was new. */
  readonly changesBefore: number;
}

export interface Snapshot {
  readonly conversation: Conversation;
  readonly changes: number;
}

/** The mark of a deleted conversation. */
export interface Deletion {
  readonly id: Id;
  readonly at: number;
  /** Until then it can be undone, and nobody else is told; epoch milliseconds. */
  readonly undoUntil: number;
  /** The ids of the desktops that have deleted it, too. */
  readonly told: readonly string[];
}

/** What this browser decided about a desktop, and knows of it. */
export interface DesktopRecord {
  readonly id: string;
  readonly name: string;
  /** Whether conversations are synchronised with it. */
  readonly mode: 'on' | 'off';
  /** The revision of its store up to which its changes are here. */
  readonly revision: number;
}

/** Up to which state a conversation is the same here and on a desktop. */
export interface SyncRecord {
  readonly desktop: string;
  readonly conversation: Id;
  readonly revision: number;
  readonly changes: number;
}

export interface ConversationStore {
  loadSummaries(): Promise<readonly StoredSummary[]>;
  load(id: Id): Promise<Snapshot | null>;
  /** Loads the head and some of the messages. */
  loadPart(id: Id, messages: readonly Id[]): Promise<Change | null>;
  /** Loads the texts of all messages of some conversations, without attachments. */
  loadTexts(ids: readonly Id[]): Promise<readonly SearchableMessage[]>;
  /** Merges changes into what is stored, in one transaction each. */
  write(change: Change): Promise<Written | null>;
  /** Marks a conversation as deleted; its content stays until `purge`. */
  delete(deletion: Deletion): Promise<void>;
  /** Undoes a deletion; returns the summary, or null if it is too late. */
  restore(id: Id): Promise<StoredSummary | null>;
  /** Removes the content of conversations whose deletion cannot be undone any more; returns the ids of all of these. */
  purge(now: number): Promise<readonly Id[]>;
  loadDeletions(): Promise<readonly Deletion[]>;
  markTold(id: Id, desktop: string): Promise<void>;
  loadDesktops(): Promise<readonly DesktopRecord[]>;
  saveDesktop(desktop: DesktopRecord): Promise<void>;
  loadSyncRecords(desktop: string): Promise<readonly SyncRecord[]>;
  saveSyncRecord(record: SyncRecord): Promise<void>;
  /** Forgets what is known of a desktop's copies, so that all are compared again. */
  forgetSyncRecords(desktop: string): Promise<void>;
  close(): void;
}

/** Returns the difference between two states of a conversation. */
export function changeBetween(before: Conversation | null, after: Conversation): Change {
  const {messages, ...head} = after;
  const changed = Object.values(messages).filter(message => before?.messages[message.id] !== message);
  return {head, messages: changed};
}

export function asConversation({head, messages}: Change): Conversation {
  return {...head, messages: Object.fromEntries(messages.map(message => [message.id, message]))};
}
