/** Pulls in progress: they go on whatever view is shown, several at once. */
import {signal} from '@preact/signals';
import {readError, RequestError} from '../api/http';
import {readJsonLines} from '../api/json-lines';
import {authorizedRequest, desktopHeader, user} from '../session/session';
import {refreshModels} from './model-store';
import {addLine, NO_PROGRESS, type PullProgress} from './pull-progress';

export interface Pull {
  readonly id: number;
  /** The id of the desktop that pulls. */
  readonly desktop: string;
  readonly model: string;
  readonly state: 'running' | 'complete' | 'failed' | 'cancelled';
  readonly progress: PullProgress;
  /** What went wrong; a sentence. */
  readonly error: string;
}

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
  pulls.value = [{id, desktop, model, state: 'running', progress: NO_PROGRESS, error: ''}, ...others];
  void run(id, desktop, model);
  return id;
}

/** Ends a pull. What it has downloaded stays at Ollama, which goes on from there. */
export function cancelPull(id: number): void {
  controllers.get(id)?.abort();
}

/** Removes a pull that has ended from the list. */
export function dismissPull(id: number): void {
  pulls.value = pulls.value.filter(each => each.id !== id || each.state === 'running');
}

// What one person began is not shown to another.
let owner = user.value?.id;
user.subscribe(current => {
  if (current?.id === owner) return;
  owner = current?.id;
  for (const controller of controllers.values()) controller.abort();
  pulls.value = [];
});

async function run(id: number, desktop: string, model: string): Promise<void> {
  const controller = new AbortController();
  controllers.set(id, controller);
  try {
    const error = await readPull(id, desktop, model, controller.signal);
    change(id, error ? {state: 'failed', error} : {state: 'complete'});
  } catch (error) {
    if (controller.signal.aborted) change(id, {state: 'cancelled'});
    else change(id, {state: 'failed', error: error instanceof RequestError ? error.message : ''});
  } finally {
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
  pulls.value = pulls.value.map(each => (each.id === id ? {...each, ...changed} : each));
}
