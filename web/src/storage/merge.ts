/** The union of two copies of a conversation.
 *
 * Devices change their copies independently, and merge them in any order, any number of times. All of them arrive at
 * the same copy, because merging is commutative, associative and idempotent: each part is the greater of two in a
 * total order.
 */
import {isTerminal, type Conversation, type Message, type Timed} from './conversation';

/** A conversation, or the mark that it was deleted. */
export type Copy = Conversation | Tombstone;

export interface Tombstone {
  readonly id: string;
  readonly deleted: true;
}

/** Merges two copies of one conversation. Deletion wins. */
export function mergeCopies(a: Copy, b: Copy): Copy {
  if ('deleted' in a) return a;
  if ('deleted' in b) return b;
  return mergeConversations(a, b);
}

/** Merges two copies of one conversation. Returns `a` itself if `b` has nothing new. */
export function mergeConversations(a: Conversation, b: Conversation): Conversation {
  const merged: Conversation = {
    version: 1,
    id: a.id,
    createdAt: Math.min(a.createdAt, b.createdAt),
    title: later(a.title, b.title),
    system: later(a.system, b.system),
    options: later(a.options, b.options),
    think: later(a.think, b.think),
    model: later(a.model, b.model),
    desktop: later(a.desktop, b.desktop),
    leaf: later(a.leaf, b.leaf),
    messages: mergeMessages(a.messages, b.messages),
  };
  return isSame(merged, a) ? a : merged;
}

/** Returns the one of two copies of a message that is further on. */
export function mergeMessage(a: Message, b: Message): Message {
  return compareMessages(a, b) >= 0 ? a : b;
}

/** Whether two copies are equal in all that they say. */
export function areEqual(a: Conversation, b: Conversation): boolean {
  return canonicalJson(a) === canonicalJson(b);
}

type Messages = Conversation['messages'];

function mergeMessages(a: Messages, b: Messages): Messages {
  let merged: Record<string, Message> | null = null;
  for (const [id, theirs] of Object.entries(b)) {
    const ours = Object.hasOwn(a, id) ? a[id] : undefined;
    const winner = ours ? mergeMessage(ours, theirs) : theirs;
    if (winner === ours) continue;
    merged ??= {...a};
    merged[id] = winner;
  }
  return merged ?? a;
}

/** A terminal state is greater than streaming. While it streams, more is greater; then the later change. */
function compareMessages(a: Message, b: Message): number {
  if (a === b) return 0;
  const terminal = Number(isTerminal(a)) - Number(isTerminal(b));
  if (terminal !== 0) return terminal;
  const size = lengthOf(a) - lengthOf(b);
  const time = a.updatedAt - b.updatedAt;
  const order = isTerminal(a) ? time || size : size || time;
  return order || compareText(canonicalJson(a), canonicalJson(b));
}

function lengthOf(message: Message): number {
  return message.content.length + message.thinking.length;
}

function later<T>(a: Timed<T>, b: Timed<T>): Timed<T> {
  if (a === b) return a;
  return (a.at - b.at || compareText(canonicalJson(a.value), canonicalJson(b.value))) >= 0 ? a : b;
}

function isSame(a: Conversation, b: Conversation): boolean {
  return (Object.keys(b) as (keyof Conversation)[]).every(key => a[key] === b[key]);
}

function compareText(a: string, b: string): number {
  return a < b ? -1 : Number(a > b);
}

/** Returns JSON whose members are sorted, so that equal values have equal texts. */
export function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_, each: unknown) => (isPlainObject(each) ? sortMembers(each) : each)) ?? 'null';
}

function isPlainObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function sortMembers(value: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>> {
  const sorted = Object.create(null) as Record<string, unknown>;
  for (const key of Object.keys(value).sort()) sorted[key] = value[key];
  return sorted;
}
