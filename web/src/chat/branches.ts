/** Messages that are shown, each with its versions. */
import type {Conversation, Id, Message} from '../storage/conversation';

export interface ShownMessage {
  readonly message: Message;
  /** The versions of this message, itself among them, oldest first. */
  readonly versions: readonly Id[];
}

/** Returns `messages`, which are some of the conversation's, each with its versions. Reads every message of the conversation once. */
export function withVersions(conversation: Conversation, messages: readonly Message[]): readonly ShownMessage[] {
  const parents = new Set(messages.map(({parent}) => parent));
  const siblings = new Map<Id | null, Message[]>();
  for (const message of Object.values(conversation.messages)) {
    if (!parents.has(message.parent)) continue;
    const group = siblings.get(message.parent);
    if (group) group.push(message);
    else siblings.set(message.parent, [message]);
  }
  return messages.map(message => ({message, versions: versionsOf(message, siblings.get(message.parent) ?? [message])}));
}

function versionsOf({role}: Message, siblings: readonly Message[]): readonly Id[] {
  return siblings.filter(each => each.role === role).sort(byCreation).map(({id}) => id);
}

function byCreation(a: Message, b: Message): number {
  return a.createdAt - b.createdAt || (a.id < b.id ? -1 : 1);
}
