import {afterEach, beforeEach, describe, expect, it, vi} from 'vitest';
import type {WorkerMessage} from './format-worker';
import type {Task} from './formatter';
import {highlightCode, loadLanguage, readRuns} from './highlight-code';
import {WorkerFormatter, type WorkerLike} from './worker-formatter';

class FakeWorker implements WorkerLike {
  onmessage: ((event: MessageEvent<WorkerMessage>) => void) | null = null;
  onerror: ((event: ErrorEvent) => void) | null = null;
  isTerminated = false;
  readonly tasks: Task[] = [];

  postMessage(task: Task): void {
    this.tasks.push(task);
  }

  terminate(): void {
    this.isTerminated = true;
  }

  send(data: WorkerMessage): void {
    this.onmessage?.(new MessageEvent('message', {data}));
  }
}

let workers: FakeWorker[];
const start = (): WorkerLike => {
  const worker = new FakeWorker();
  workers.push(worker);
  return worker;
};

beforeEach(() => {
  workers = [];
  vi.useFakeTimers();
});
afterEach(() => { vi.useRealTimers(); });

describe('the worker', () => {
  it('gets one task after another', async () => {
    const formatter = new WorkerFormatter(start);
    const first = formatter.highlight('x', 'js');
    const second = formatter.typeset('x', false);
    expect(workers[0]?.tasks).toHaveLength(1);
    workers[0]?.send({kind: 'done', result: [[1, 'keyword']]});
    expect(await first).toEqual([[1, 'keyword']]);
    expect(workers[0]?.tasks).toHaveLength(2);
    workers[0]?.send({kind: 'done', result: {tag: 'math', attributes: {}, children: []}});
    expect(await second).toEqual({tag: 'math', attributes: {}, children: []});
    expect(formatter.typeset('x', false)).toEqual({tag: 'math', attributes: {}, children: []});
  });

  it('is stopped when it computes too long, and the next task gets another one', async () => {
    const formatter = new WorkerFormatter(start);
    const slow = formatter.highlight('x', 'js');
    const next = formatter.highlight('y', 'js');
    workers[0]?.send({kind: 'started'});
    vi.advanceTimersByTime(2_001);
    expect(await slow).toBeNull();
    expect(workers[0]?.isTerminated).toBe(true);
    workers[1]?.send({kind: 'done', result: [[1, '']]});
    expect(await next).toEqual([[1, '']]);
  });

  it('may take longer to load', () => {
    const formatter = new WorkerFormatter(start);
    void formatter.highlight('x', 'js');
    vi.advanceTimersByTime(50_000);
    expect(workers[0]?.isTerminated).toBe(false);
  });

  it('is not started again and again', async () => {
    const formatter = new WorkerFormatter(() => { throw new Error('It cannot be started.'); }, {maxFailures: 2});
    expect(await Promise.all(['a', 'b', 'c'].map(code => formatter.highlight(code, 'js')))).toEqual([null, null, null]);
  });

  it('is not asked for languages that it does not know', async () => {
    expect(await new WorkerFormatter(start).highlight('x', 'constructor')).toBeNull();
    expect(workers).toHaveLength(0);
  });
});

describe('the runs of code', () => {
  it('have the length of the code together', async () => {
    const code = 'const a = "<b> & \' \\u{1F600} 😀"; // note\n';
    const language = await loadLanguage('JS');
    const runs = language ? highlightCode(code, language) : [];
    expect(runs.reduce((sum, [length]) => sum + length, 0)).toBe(code.length);
    expect(runs[0]).toEqual([5, 'keyword']);
  });

  it('have the colour of the innermost scope that has one', () => {
    expect(readRuns('<span class="hljs-string">a<span class="hljs-subst">b&lt;</span></span>c')).toEqual([[3, 'text'], [1, '']]);
  });
});
