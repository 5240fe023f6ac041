/** The messages that are shown, each with its versions. */
import type {Conversation, Id, Message} from '../storage/conversation';
import {pathToLeaf} from '../storage/tree';

export interface ShownMessage {
  readonly message: Message;
  /** The versions of this message, itself among them, oldest first. */
  readonly versions: readonly Id[];
}

/** Returns the messages of the branch that is shown, in one pass over all. */
export function shownMessages(conversation: Conversation): readonly ShownMessage[] {
  const groups = new Map<string, Message[]>();
  for (const message of Object.values(conversation.messages)) {
    const key = groupOf(message);
    const group = groups.get(key);
    if (group) group.push(message);
    else groups.set(key, [message]);
  }
  return pathToLeaf(conversation).map(message => ({
    message,
    versions: (groups.get(groupOf(message)) ?? [message]).toSorted(byCreation).map(({id}) => id),
  }));
}

function groupOf({parent, role}: Message): string {
  return `${parent ?? ''} ${role}`;
}

function byCreation(a: Message, b: Message): number {
  return a.createdAt - b.createdAt || (a.id < b.id ? -1 : 1);
}
