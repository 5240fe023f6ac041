/** The search over all conversations: what is looked for, and what is found. */
import {effect, signal} from '@preact/signals';
import {trustScript} from '../app/trusted-script';
import {conversations} from './conversations';
import type {Hit} from './search-index';
import {queryWords} from './search-text';
import type {SearchRequest, SearchResponse} from './search-worker';
import workerUrl from './search-worker?worker&url';
import {Searcher, type SearchResult} from './searcher';

export interface SearchState {
  readonly query: string;
  readonly words: readonly string[];
  /** null before the first hits. */
  readonly hits: readonly Hit[] | null;
  readonly isComplete: boolean;
  readonly hasFailed: boolean;
}

const NOTHING: SearchState = {query: '', words: [], hits: null, isComplete: true, hasFailed: false};
const DEBOUNCE_MS = 120;
/** The worker keeps all texts in memory; without a query for so long it ends. */
const IDLE_MS = 60_000;

export const search = signal<SearchState>(NOTHING);

let worker: Worker | null = null;
let query = 0;
let timer: ReturnType<typeof setTimeout> | undefined;
let idleTimer: ReturnType<typeof setTimeout> | undefined;

/** Looks for the words of a text; '' ends the search. */
export function find(text: string): void {
  const words = queryWords(text);
  query += 1;
  clearTimeout(timer);
  if (words.length === 0) {
    search.value = {...NOTHING, query: text};
    return;
  }
  search.value = {...search.value, query: text, words, isComplete: false, hasFailed: false};
  timer = setTimeout(() => void start(query, words), DEBOUNCE_MS);
}

async function start(current: number, words: readonly string[]): Promise<void> {
  await conversations.flush();
  if (current !== query) return;
  if (conversations.state.peek() === 'kept' || conversations.state.peek() === 'full') return ask({userId: conversations.userId.peek(), query: current, words});
  const store = await conversations.store.catch(() => null);
  if (store) await new Searcher(store).find(words, result => accept({query: current, ...result}), () => current === query).catch(() => accept({query: current, error: ''}));
}

function ask(request: SearchRequest): void {
  if (!worker) {
    worker = new Worker(trustScript(workerUrl), {type: 'module'});
    worker.onmessage = ({data}: MessageEvent<SearchResponse>) => accept(data);
    worker.onerror = () => {
      accept({query, error: ''});
      endWorker();
    };
  }
  clearTimeout(idleTimer);
  idleTimer = setTimeout(endWorker, IDLE_MS);
  worker.postMessage(request);
}

function accept({query: answered, ...result}: SearchResponse | ({query: number} & SearchResult)): void {
  if (answered !== query) return;
  search.value = 'hits' in result
    ? {...search.value, hits: result.hits, isComplete: result.isComplete}
    : {...search.value, isComplete: true, hasFailed: true};
}

function endWorker(): void {
  clearTimeout(idleTimer);
  worker?.terminate();
  worker = null;
}

/** Nobody searches in what another user wrote. */
effect(() => {
  void conversations.userId.value;
  endWorker();
  find('');
});
