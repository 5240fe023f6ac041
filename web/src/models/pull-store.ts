/** Pulls in progress: they go on whatever view is shown, several at once. */
import {signal} from '@preact/signals';
import {isObject, readError, RequestError} from '../api/http';
import {readJsonLines} from '../api/json-lines';
import {t} from '../i18n/i18n';
import {readValue, writeValue} from '../session/browser-values';
import {authorizedRequest, desktopHeader, user} from '../session/session';
import {holdInTab, isHeldByTab} from '../ui/tab-lock';
import {showToast} from '../ui/toast';
import {refreshModels} from './model-store';
import {addLine, NO_PROGRESS, type PullProgress} from './pull-progress';

export interface Pull {
  readonly id: number;
  /** The id of the desktop that pulls. */
  readonly desktop: string;
  readonly model: string;
  /** Interrupted: the connection broke, or the page was closed. Ollama pulls only while somebody waits for it. */
  readonly state: 'running' | 'complete' | 'failed' | 'cancelled' | 'interrupted';
  readonly progress: PullProgress;
  /** What went wrong; a sentence. */
  readonly error: string;
}

/** Where the browser keeps the pulls that are not at their end. */
const STORED_AS = 'pulls';
const MAX_STORED = 20;

/** Newest first. */
export const pulls = signal<readonly Pull[]>([]);

const controllers = new Map<number, AbortController>();
let lastId = 0;

/** Starts to pull a model; returns the id of the pull. A pull of the same model that runs is returned instead. */
export function startPull(desktop: string, model: string): number {
  const running = pulls.value.find(each => each.desktop === desktop && each.model === model && each.state === 'running');
  if (running) return running.id;
  const id = ++lastId;
  const others = pulls.value.filter(each => each.desktop !== desktop || each.model !== model);
  setPulls([{id, desktop, model, state: 'running', progress: NO_PROGRESS, error: ''}, ...others]);
  void run(id, desktop, model);
  return id;
}

/** Ends a pull. What it has downloaded stays at Ollama, which goes on from there. */
export function cancelPull(id: number): void {
  controllers.get(id)?.abort();
}

/** Removes a pull that has ended from the list. */
export function dismissPull(id: number): void {
  setPulls(pulls.value.filter(each => each.id !== id || each.state === 'running'));
}

// What one person began is not shown to another.
let owner = user.value?.id;
user.subscribe(current => {
  if (current?.id === owner) return;
  owner = current?.id;
  for (const controller of controllers.values()) controller.abort();
  pulls.value = [];
  if (current) void restorePulls();
});
if (owner) void restorePulls();

/** Shows the pulls that ended when the page was closed, but for those that another tab goes on with. */
async function restorePulls(): Promise<void> {
  const asker = owner;
  const names: string[] = [];
  for (const {desktop, model} of parsePulls(readValue('browser', STORED_AS))) {
    const isElsewhere = await isHeldByTab(lockName(desktop, model));
    if (owner !== asker) return;
    const isKnown = pulls.value.some(each => each.desktop === desktop && each.model === model);
    if (isElsewhere || isKnown) continue;
    setPulls([...pulls.value, {id: ++lastId, desktop, model, state: 'interrupted', progress: NO_PROGRESS, error: ''}]);
    names.push(model);
  }
  if (names.length) showToast(t('models.pullEnded', {names: names.join(', ')}));
}

/** Returns the pulls in a stored text; what cannot be one is left out. */
export function parsePulls(stored: string | null): readonly Pick<Pull, 'desktop' | 'model'>[] {
  try {
    const list: unknown = JSON.parse(stored ?? '[]');
    if (!Array.isArray(list)) return [];
    return list.filter(isStoredPull).slice(0, MAX_STORED).map(({desktop, model}) => ({desktop, model}));
  } catch {
    return [];
  }
}

function lockName(desktop: string, model: string): string {
  return `ctllm-pull-${desktop} ${model}`;
}

function isStoredPull(value: unknown): value is Pick<Pull, 'desktop' | 'model'> {
  return isObject(value) && typeof value['desktop'] === 'string' && typeof value['model'] === 'string';
}

/** Shows the pulls, and remembers which of them are not at their end. */
function setPulls(next: readonly Pull[]): void {
  const before = pulls.value;
  pulls.value = next;
  if (unfinished(next) !== unfinished(before)) storePulls(before, next);
}

function unfinished(list: readonly Pull[]): string {
  return JSON.stringify(list.filter(({state}) => state === 'running' || state === 'interrupted').map(({desktop, model}) => ({desktop, model})));
}

/** Keeps what other tabs have stored. */
function storePulls(before: readonly Pull[], next: readonly Pull[]): void {
  const isHere = ({desktop, model}: Pick<Pull, 'desktop' | 'model'>): boolean =>
    [...before, ...next].some(each => each.desktop === desktop && each.model === model);
  const others = parsePulls(readValue('browser', STORED_AS)).filter(each => !isHere(each));
  const all = [...parsePulls(unfinished(next)), ...others].slice(0, MAX_STORED);
  writeValue('browser', STORED_AS, all.length ? JSON.stringify(all) : '');
}

async function run(id: number, desktop: string, model: string): Promise<void> {
  const controller = new AbortController();
  controllers.set(id, controller);
  const release = holdInTab(lockName(desktop, model));
  try {
    const error = await readPull(id, desktop, model, controller.signal);
    change(id, error ? {state: 'failed', error} : {state: 'complete'});
  } catch (error) {
    if (controller.signal.aborted) change(id, {state: 'cancelled'});
    else change(id, error instanceof RequestError && error.status ? {state: 'failed', error: error.message} : {state: 'interrupted'});
  } finally {
    release();
    controllers.delete(id);
  }
  await refreshModels(desktop);
}

/** Follows a pull to its end; returns what went wrong, or ''. Throws if the connection breaks. */
async function readPull(id: number, desktop: string, model: string, abort: AbortSignal): Promise<string> {
  const options = {body: {model}, headers: desktopHeader(desktop), signal: abort};
  const response = await authorizedRequest('POST', '/api/pull', options);
  if (!response.body) throw new TypeError('The response has no body.');
  for await (const line of readJsonLines(response.body)) {
    if ('error' in line) return readError(line).message;
    change(id, {progress: addLine(currentProgress(id), line, Date.now())});
    if (line['status'] === 'success') return '';
  }
  throw new TypeError('The response has no end.');
}

function currentProgress(id: number): PullProgress {
  return pulls.value.find(each => each.id === id)?.progress ?? NO_PROGRESS;
}

function change(id: number, changed: Partial<Omit<Pull, 'id'>>): void {
  setPulls(pulls.value.map(each => (each.id === id ? {...each, ...changed} : each)));
}
