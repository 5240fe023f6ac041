/** Colours code and typesets formulas in a worker, which is stopped when a task takes too long. */
import {trustScript} from '../app/trusted-script';
import type {WorkerMessage} from './format-worker';
import workerUrl from './format-worker?worker&url';
import type {ColouredRun, Formatter, MathTree, Task} from './formatter';
import {findLanguage} from './languages';

type Result = readonly ColouredRun[] | MathTree | null;

interface Job {
  readonly task: Task;
  readonly resolve: (result: Result) => void;
}

/** What of a worker this needs. */
export interface WorkerLike {
  onmessage: ((event: MessageEvent<WorkerMessage>) => void) | null;
  onerror: ((event: ErrorEvent) => void) | null;
  postMessage(task: Task): void;
  terminate(): void;
}

interface Limits {
  readonly loadMs: number;
  readonly computeMs: number;
  readonly maxJobs: number;
  readonly maxFormulas: number;
  /** So many workers in a row may fail before no more are started. */
  readonly maxFailures: number;
}

const LIMITS: Limits = {loadMs: 60_000, computeMs: 2_000, maxJobs: 2_000, maxFormulas: 2_000, maxFailures: 5};

export class WorkerFormatter implements Formatter {
  readonly #start: () => WorkerLike;
  readonly #limits: Limits;
  readonly #jobs: Job[] = [];
  readonly #formulas = new Map<string, Promise<MathTree | null> | MathTree | null>();
  #worker: WorkerLike | null = null;
  #current: Job | null = null;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #failures = 0;

  constructor(start: () => WorkerLike = startWorker, limits: Partial<Limits> = {}) {
    this.#start = start;
    this.#limits = {...LIMITS, ...limits};
  }

  async highlight(code: string, language: string): Promise<readonly ColouredRun[] | null> {
    if (!findLanguage(language)) return null;
    const result = await this.#run({kind: 'highlight', code, language});
    return Array.isArray(result) ? result : null;
  }

  typeset(tex: string, isDisplay: boolean): Promise<MathTree | null> | MathTree | null {
    const key = `${isDisplay ? 'display' : 'inline'} ${tex}`;
    const known = this.#formulas.get(key);
    if (known !== undefined) return known;
    const result = this.#run({kind: 'math', tex, isDisplay}).then(tree => {
      const formula = typeof tree === 'string' || Array.isArray(tree) ? null : (tree as MathTree | null);
      if (this.#formulas.get(key) === result) this.#formulas.set(key, formula);
      return formula;
    });
    this.#remember(key, result);
    return result;
  }

  #remember(key: string, result: Promise<MathTree | null>): void {
    this.#formulas.set(key, result);
    if (this.#formulas.size <= this.#limits.maxFormulas) return;
    for (const oldest of this.#formulas.keys()) {
      this.#formulas.delete(oldest);
      return;
    }
  }

  #run(task: Task): Promise<Result> {
    if (this.#jobs.length >= this.#limits.maxJobs || this.#failures >= this.#limits.maxFailures) return Promise.resolve(null);
    return new Promise(resolve => {
      this.#jobs.push({task, resolve});
      this.#next();
    });
  }

  #next(): void {
    if (this.#current) return;
    const job = this.#jobs.shift();
    if (!job) return;
    this.#current = job;
    try {
      this.#worker ??= this.#open();
      this.#worker.postMessage(job.task);
    } catch {
      return this.#fail();
    }
    this.#timer = setTimeout(() => this.#fail(), this.#limits.loadMs);
  }

  #open(): WorkerLike {
    const worker = this.#start();
    worker.onmessage = ({data}) => this.#receive(data);
    worker.onerror = () => this.#fail();
    return worker;
  }

  #receive(message: WorkerMessage): void {
    clearTimeout(this.#timer);
    if (message.kind === 'started') {
      this.#timer = setTimeout(() => this.#fail(), this.#limits.computeMs);
      return;
    }
    this.#failures = 0;
    this.#finish(message.result);
  }

  /** Stops a worker that does not respond; its task has no result. */
  #fail(): void {
    clearTimeout(this.#timer);
    this.#worker?.terminate();
    this.#worker = null;
    this.#failures += 1;
    if (this.#failures >= this.#limits.maxFailures) for (const job of this.#jobs.splice(0)) job.resolve(null);
    this.#finish(null);
  }

  #finish(result: Result): void {
    const job = this.#current;
    this.#current = null;
    job?.resolve(result);
    this.#next();
  }
}

function startWorker(): WorkerLike {
  return new Worker(trustScript(workerUrl), {type: 'module', name: 'format'});
}

/** The one of the page. */
export const formatter = new WorkerFormatter();
