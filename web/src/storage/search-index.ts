/** What the search worker knows: the folded text of all messages, so that a query reads no database again. */
import type {Id} from './conversation';
import {excerpt, fold} from './search-text';

/** What is indexed of a message. */
export interface SearchableMessage {
  readonly conversation: Id;
  readonly id: Id;
  readonly content: string;
  readonly updatedAt: number;
}

export interface SearchableConversation {
  readonly id: Id;
  readonly title: string;
  readonly updatedAt: number;
}

/** A message that has all words, or a conversation whose title has them (then `message` is ''). */
export interface Hit {
  readonly conversation: Id;
  readonly message: Id | '';
  readonly title: string;
  readonly excerpt: string;
  readonly updatedAt: number;
}

interface Entry {
  readonly id: Id;
  readonly text: string;
  readonly folded: string;
  readonly updatedAt: number;
}

const MAX_HITS = 200;
const MAX_HITS_OF_ONE = 5;

export class SearchIndex {
  readonly #conversations = new Map<Id, {title: string; folded: string; updatedAt: number; readonly messages: Map<Id, Entry>}>();

  setConversation({id, title, updatedAt}: SearchableConversation): void {
    const messages = this.#conversations.get(id)?.messages ?? new Map<Id, Entry>();
    this.#conversations.set(id, {title, folded: fold(title), updatedAt, messages});
  }

  setMessage({conversation, id, content, updatedAt}: SearchableMessage): void {
    const folded = fold(content);
    this.#conversations.get(conversation)?.messages.set(id, {id, text: content, folded, updatedAt});
  }

  delete(conversation: Id): void {
    this.#conversations.delete(conversation);
  }

  /** Returns the hits, of the latest conversations first. A word may be in the title or in the message. */
  find(words: readonly string[]): readonly Hit[] {
    if (words.length === 0) return [];
    const hits: Hit[] = [];
    const latestFirst = [...this.#conversations].sort(([, a], [, b]) => b.updatedAt - a.updatedAt);
    for (const [id, {title, folded, updatedAt, messages}] of latestFirst) {
      if (hits.length >= MAX_HITS) break;
      const missing = words.filter(word => !folded.includes(word));
      if (missing.length === 0) {
        hits.push({conversation: id, message: '', title, excerpt: '', updatedAt});
        continue;
      }
      const found = [...messages.values()].filter(entry => missing.every(word => entry.folded.includes(word)));
      for (const entry of found.slice(0, MAX_HITS_OF_ONE)) {
        hits.push({conversation: id, message: entry.id, title, excerpt: excerpt(entry.text, missing), updatedAt: entry.updatedAt});
      }
    }
    return hits.slice(0, MAX_HITS);
  }
}
