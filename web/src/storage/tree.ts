/** Changes of a conversation's tree of messages. All of them return a new conversation, and keep the messages they do not touch. */
import {newId, newMessage, type Conversation, type Id, type Message, type NewMessage, type Timed} from './conversation';

const MAX_TITLE = 60;

/** The properties of a conversation that have a time. */
type TimedKey = {[Key in keyof Conversation]: Conversation[Key] extends Timed<infer _> ? Key : never}[keyof Conversation];

/** Sets a property such as `title` or `model`. */
export function setValue<Key extends TimedKey>(conversation: Conversation, key: Key, value: Conversation[Key]['value'], now = Date.now()): Conversation {
  if (conversation[key].value === value) return conversation;
  return {...conversation, [key]: {value, at: timeAfter(conversation[key].at, now)}};
}

/** Adds a message and shows its branch. Its parent is the leaf that is shown unless one is given. The first question is the title. */
export function addMessage(conversation: Conversation, values: NewMessage, now = Date.now()): Conversation {
  const message = newMessage({parent: conversation.leaf.value, ...values}, now);
  const titled = message.role === 'user' && !conversation.title.value
    ? setValue(conversation, 'title', suggestTitle(message), now)
    : conversation;
  return setValue({...titled, messages: {...titled.messages, [message.id]: message}}, 'leaf', message.id, now);
}

/** Changes a message. Does nothing if it does not exist. */
export function updateMessage(conversation: Conversation, id: Id, change: Partial<Omit<Message, 'id'>>, now = Date.now()): Conversation {
  const message = messageOf(conversation, id);
  if (!message) return conversation;
  const changed = {...message, ...change, updatedAt: timeAfter(message.updatedAt, now)};
  return {...conversation, messages: {...conversation.messages, [id]: changed}};
}

/** Adds a version of a message beside it, with other words. */
export function editMessage(conversation: Conversation, id: Id, change: Partial<Pick<Message, 'content' | 'attachments'>>, newMessageId: Id = newId(), now = Date.now()): Conversation {
  const message = messageOf(conversation, id);
  if (!message) return conversation;
  const {role, parent, content, attachments, model} = message;
  return addMessage(conversation, {id: newMessageId, role, parent, content, attachments, model, ...change}, now);
}

/** Adds an answer beside another one, which it begins with: what its generation gives is appended to it. */
export function continueMessage(conversation: Conversation, id: Id, values: Partial<Message> = {}, now = Date.now()): Conversation {
  const message = messageOf(conversation, id);
  if (!message || message.role !== 'assistant') return conversation;
  const {parent, content, thinking, model} = message;
  return addMessage(conversation, {role: 'assistant', parent, content, thinking, model, prefix: content.length, state: 'streaming', ...values}, now);
}

/** Shows the branch of a message: its latest descendant is the leaf. Does nothing if the message is shown already. */
export function showMessage(conversation: Conversation, id: Id, now = Date.now()): Conversation {
  if (!messageOf(conversation, id) || pathToLeaf(conversation).some(each => each.id === id)) return conversation;
  return setValue(conversation, 'leaf', latestDescendant(conversation, id), now);
}

/** Returns the messages that are shown: from the first to the leaf. */
export function pathToLeaf(conversation: Conversation): readonly Message[] {
  return pathTo(conversation, conversation.leaf.value);
}

/** Returns the messages from the first to one of them. Copies of strangers may have loops: each is passed once. */
export function pathTo(conversation: Conversation, id: Id | null): readonly Message[] {
  const path: Message[] = [];
  const passed = new Set<Id>();
  for (let next = id; next !== null && !passed.has(next);) {
    passed.add(next);
    const message = messageOf(conversation, next);
    if (!message) break;
    path.push(message);
    next = message.parent;
  }
  return path.reverse();
}

/** Returns the versions of a message, itself among them: those with the same parent and role, oldest first. */
export function siblingsOf(conversation: Conversation, id: Id): readonly Message[] {
  const message = messageOf(conversation, id);
  if (!message) return [];
  return Object.values(conversation.messages).filter(each => each.parent === message.parent && each.role === message.role).sort(byCreation);
}

/** Returns the message that follows the latest of its siblings all the way down. */
export function latestDescendant(conversation: Conversation, id: Id): Id {
  const children = childrenByParent(conversation);
  const passed = new Set<Id>();
  let last = id;
  for (let next: Id | undefined = id; next !== undefined && !passed.has(next); next = children.get(next)?.at(-1)?.id) {
    passed.add(next);
    last = next;
  }
  return last;
}

export function messageOf(conversation: Conversation, id: Id): Message | undefined {
  return Object.hasOwn(conversation.messages, id) ? conversation.messages[id] : undefined;
}

/** Returns the beginning of a question as a title. */
export function suggestTitle({content, attachments}: Pick<Message, 'content' | 'attachments'>): string {
  const text = (content.trim() || attachments[0]?.name || '').slice(0, 10 * MAX_TITLE).replace(/\s+/g, ' ');
  const characters = [...text];
  if (characters.length <= MAX_TITLE) return text;
  const cut = characters.slice(0, MAX_TITLE).join('');
  const atWord = cut.replace(/\s\S*$/, '');
  return `${atWord.length > MAX_TITLE / 2 ? atWord : cut}…`;
}

function childrenByParent(conversation: Conversation): ReadonlyMap<Id | null, readonly Message[]> {
  const children = new Map<Id | null, Message[]>();
  for (const message of Object.values(conversation.messages).sort(byCreation)) {
    const siblings = children.get(message.parent);
    if (siblings) siblings.push(message);
    else children.set(message.parent, [message]);
  }
  return children;
}

function byCreation(a: Message, b: Message): number {
  return a.createdAt - b.createdAt || (a.id < b.id ? -1 : 1);
}

/** A change comes after what it changes, whatever the clocks of the devices say. */
function timeAfter(before: number, now: number): number {
  return Math.max(now, before + 1);
}
