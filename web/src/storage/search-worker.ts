/// <reference lib="webworker" />
/** Searches in a thread of its own, so that the page stays responsive. */
import {openIndexedStore} from './indexed-store';
import {Searcher, type SearchResult} from './searcher';

export interface SearchRequest {
  readonly userId: string;
  readonly query: number;
  readonly words: readonly string[];
}

export type SearchResponse = {readonly query: number} & (SearchResult | {readonly error: string});

declare const self: DedicatedWorkerGlobalScope;

let latest = 0;
let searcher: Promise<Searcher> | null = null;
let running: Promise<void> = Promise.resolve();

self.onmessage = ({data}: MessageEvent<SearchRequest>) => {
  latest = data.query;
  running = running.then(() => find(data));
};

async function find({userId, query, words}: SearchRequest): Promise<void> {
  const respond = (response: SearchResult | {readonly error: string}): void => self.postMessage({query, ...response} satisfies SearchResponse);
  if (query !== latest) return;
  try {
    searcher ??= openIndexedStore(userId, () => { searcher = null; }).then(store => new Searcher(store));
    await (await searcher).find(words, respond, () => query === latest);
  } catch (error) {
    searcher = null;
    respond({error: error instanceof Error ? error.message : ''});
  }
}
