/** Searches what a store keeps. It reads each conversation once, and again when it has changed. */
import type {Id} from './conversation';
import {SearchIndex, type Hit} from './search-index';
import type {ConversationStore, StoredSummary} from './store';

/** How many conversations are read at once. */
const BATCH = 100;

/** What is found so far; `isComplete` when everything was searched. */
export interface SearchResult {
  readonly hits: readonly Hit[];
  readonly isComplete: boolean;
}

export class Searcher {
  readonly #index = new SearchIndex();
  readonly #indexed = new Map<Id, number>();

  constructor(private readonly store: Pick<ConversationStore, 'loadSummaries' | 'loadTexts'>) {}

  /** Calls `onResult` with the hits so far, until all are found or `isCurrent` says no. */
  async find(words: readonly string[], onResult: (result: SearchResult) => void, isCurrent: () => boolean): Promise<void> {
    const summaries = await this.store.loadSummaries();
    this.#forgetAllBut(new Set(summaries.map(each => each.id)));
    const stale = summaries.filter(each => this.#indexed.get(each.id) !== each.changes).sort((a, b) => b.updatedAt - a.updatedAt);
    for (let start = 0; start < stale.length; start += BATCH) {
      if (!isCurrent()) return;
      await this.#read(stale.slice(start, start + BATCH));
      if (start + BATCH < stale.length && isCurrent()) onResult({hits: this.#index.find(words), isComplete: false});
    }
    if (isCurrent()) onResult({hits: this.#index.find(words), isComplete: true});
  }

  async #read(summaries: readonly StoredSummary[]): Promise<void> {
    const messages = await this.store.loadTexts(summaries.map(each => each.id));
    for (const summary of summaries) {
      this.#index.setConversation(summary);
      this.#indexed.set(summary.id, summary.changes);
    }
    for (const message of messages) this.#index.setMessage(message);
  }

  #forgetAllBut(ids: ReadonlySet<Id>): void {
    for (const id of this.#indexed.keys()) {
      if (ids.has(id)) continue;
      this.#indexed.delete(id);
      this.#index.delete(id);
    }
  }
}
