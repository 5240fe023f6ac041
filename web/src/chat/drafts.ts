/** What a person has begun and not sent: text and attachments, kept for each conversation, in this tab.
 *
 * Both are in the storage of the tab, so that they survive a reload, and nobody finds them when the tab is closed.
 * Attachments that are too large for it stay in memory: then the browser asks before the page is left.
 */
import {signal, type ReadonlySignal, type Signal} from '@preact/signals';
import {route} from '../app/router';
import {readValue, removeValues, writeValue} from '../session/browser-values';
import {userId} from '../session/session';
import type {Attachment, Id} from '../storage/conversation';
import {parseAttachments} from '../storage/parse';

/** So many characters of attachments are stored for a conversation: a tab has room for five million, of all drafts. */
const MAX_STORED = 2_000_000;

export interface AttachmentDraft {
  readonly attachments: readonly Attachment[];
  /** The number of choices of files that are being read. */
  readonly reading: number;
}

interface Kept {
  readonly signal: Signal<AttachmentDraft>;
  /** Whether a reload loses nothing of it. */
  isStored: boolean;
}

const kept = new Map<string, Kept>();

/** Returns the draft of a conversation; '' is a new one. */
export function readDraft(conversation: string): string {
  return readValue('tab', `draft.${conversation}`) ?? '';
}

export function writeDraft(conversation: string, text: string): void {
  writeValue('tab', `draft.${conversation}`, text);
}

/** Returns how a question was edited that is not sent again yet; '' if it was not. */
export function readEdit(conversation: Id, message: Id): string {
  return readDraft(`edit.${conversation}.${message}`);
}

export function writeEdit(conversation: Id, message: Id, text: string): void {
  writeDraft(`edit.${conversation}.${message}`, text);
}

/** The attachments of a draft of whoever is logged in. */
export function attachmentDraft(conversation: string): ReadonlySignal<AttachmentDraft> {
  return entryOf(conversation).signal;
}

export function setAttachments(conversation: string, attachments: readonly Attachment[]): void {
  const entry = entryOf(conversation);
  entry.signal.value = {...entry.signal.peek(), attachments};
  entry.isStored = store(conversation, attachments);
  watchLeaving();
}

/** Counts a choice of files that is being read, until the returned function is called. The draft outlives the view. */
export function beginReading(conversation: string): () => void {
  const entry = entryOf(conversation).signal;
  const count = (step: 1 | -1): void => {
    entry.value = {...entry.peek(), reading: entry.peek().reading + step};
    watchLeaving();
  };
  count(1);
  return () => count(-1);
}

/** Forgets all that a person has begun. */
export function forgetDrafts(person: string): void {
  for (const key of kept.keys()) if (key.startsWith(`${person} `)) kept.delete(key);
  removeValues('tab', person, name => name.startsWith('draft.'));
  watchLeaving();
}

/** The conversation that a draft is of. */
const CONVERSATION = /^draft\.(?:attachments\.|edit\.)?([0-9a-f]{32})(?:\.|$)/;

/** Forgets what the person has begun in conversations that are deleted, but for the one that they are looking at. */
export function forgetDraftsOf(conversations: readonly Id[]): void {
  const gone = new Set(conversations);
  gone.delete(route.peek().id);
  const person = userId.peek();
  for (const id of gone) kept.delete(`${person} ${id}`);
  removeValues('tab', person, name => gone.has(CONVERSATION.exec(name)?.[1] ?? ''));
  watchLeaving();
}

function entryOf(conversation: string): Kept {
  const key = `${userId.peek()} ${conversation}`;
  const known = kept.get(key);
  if (known) return known;
  const attachments = parseAttachments(readValue('tab', nameOf(conversation)));
  const entry = {signal: signal({attachments, reading: 0}), isStored: true};
  kept.set(key, entry);
  return entry;
}

function store(conversation: string, attachments: readonly Attachment[]): boolean {
  const size = attachments.reduce((sum, {data}) => sum + data.length, 0);
  const isSmall = size <= MAX_STORED;
  return writeValue('tab', nameOf(conversation), isSmall && attachments.length ? JSON.stringify(attachments) : '') && isSmall;
}

function nameOf(conversation: string): string {
  return `draft.attachments.${conversation}`;
}

/** A listener keeps pages out of the cache for Back: there is one only while something would be lost. */
function watchLeaving(): void {
  const isAtRisk = [...kept.values()].some(each => !each.isStored || each.signal.peek().reading > 0);
  if (isAtRisk) addEventListener('beforeunload', askToStay);
  else removeEventListener('beforeunload', askToStay);
}

function askToStay(event: BeforeUnloadEvent): void {
  event.preventDefault();
}
