/// <reference lib="webworker" />
/** The worker that colours code and typesets formulas. It says when it begins to compute: loading may take long, computing not. */
import type {ColouredRun, MathTree, Task} from './formatter';

declare const self: DedicatedWorkerGlobalScope;

export type WorkerMessage = {readonly kind: 'started'} | {readonly kind: 'done'; readonly result: readonly ColouredRun[] | MathTree | null};

function post(message: WorkerMessage): void {
  self.postMessage(message);
}

/** Loads what a task needs; returns what computes it. */
async function prepare(task: Task): Promise<() => readonly ColouredRun[] | MathTree | null> {
  if (task.kind === 'math') {
    const {typesetMath} = await import('./typeset-math');
    return () => typesetMath(task.tex, task.isDisplay);
  }
  const {highlightCode, loadLanguage} = await import('./highlight-code');
  const language = await loadLanguage(task.language);
  return () => (language ? highlightCode(task.code, language) : null);
}

async function run(task: Task): Promise<void> {
  const compute = await prepare(task);
  post({kind: 'started'});
  post({kind: 'done', result: compute()});
}

self.addEventListener('message', ({data}: MessageEvent<Task>) => {
  run(data).catch(() => post({kind: 'done', result: null}));
});
