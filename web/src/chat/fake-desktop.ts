/** A desktop for tests: generations as docs/stream.md describes them, over a network that breaks on demand. */
import {RequestError} from '../api/http';
import type {Send} from './generation-client';

const encoder = new TextEncoder();

interface Generation {
  data: Uint8Array;
  state: 'running' | 'complete' | 'failed' | 'cancelled';
  /** The error line of its end. */
  error: string;
}

/** What a response does after `bytes` bytes of it: */
interface Cut {
  readonly bytes: number;
  /** break off, end cleanly, or send this error line. */
  readonly how: 'break' | 'end' | {readonly code: string};
}

export class FakeDesktop {
  readonly generations = new Map<string, Generation>();
  readonly sent: string[] = [];
  /** What the next requests get instead of a response. */
  readonly refusals: RequestError[] = [];
  /** How the next responses break. */
  readonly cuts: Cut[] = [];
  /** The size of a piece of a response. */
  pieceSize = 1000;
  /** What a new generation gives. */
  answer: readonly Readonly<Record<string, unknown>>[] = [];
  finalState: Generation['state'] = 'complete';
  finalError = '';
  #waiting: {readonly wake: () => void; readonly fail: (error: Error) => void}[] = [];

  readonly send: Send = async (method, path, {body, signal}) => {
    this.sent.push(`${method} ${path}`);
    await Promise.resolve();
    const refusal = this.refusals.shift();
    if (refusal) throw refusal;
    const [, id = '', from] = /^\/ctllm\/desktop\/generations\/(\w+)(?:\?from=(\d+))?$/.exec(path) ?? [];
    if (method === 'POST') return this.#start(path === '/api/chat' ? '' : (body as {id: string}).id, signal);
    if (!id) return Response.json({generations: [...this.generations].map(([each, {state, data}]) => ({id: each, state, bytes: data.length}))});
    const generation = this.generations.get(id);
    if (!generation) throw new RequestError('There is no such generation.', 404, 0, 'not_found');
    if (method === 'DELETE') {
      this.end(id, 'cancelled', 'cancelled');
      return new Response(null, {status: 204});
    }
    return this.#respond(generation, Number(from), signal);
  };

  /** Adds a line to a running generation. */
  add(id: string, line: Readonly<Record<string, unknown>>): void {
    const generation = this.generations.get(id);
    if (!generation) throw new Error(`There is no generation ${id}.`);
    generation.data = concat(generation.data, encoder.encode(`${JSON.stringify(line)}\n`));
    this.#wake();
  }

  end(id: string, state: Generation['state'], code = ''): void {
    const generation = this.generations.get(id);
    if (generation) Object.assign(generation, {state, error: code});
    this.#wake();
  }

  /** Forgets all generations, and breaks all connections. */
  restart(): void {
    this.generations.clear();
    for (const {fail} of this.#waiting.splice(0)) fail(new TypeError('network error'));
  }

  #start(id: string, signal: AbortSignal | undefined): Response {
    let generation = this.generations.get(id);
    if (!generation) {
      const data = encoder.encode(this.answer.map(line => `${JSON.stringify(line)}\n`).join(''));
      generation = {data, state: this.answer.length ? this.finalState : 'running', error: this.finalError};
      this.generations.set(id, generation);
    }
    return this.#respond(generation, 0, signal);
  }

  #respond(generation: Generation, from: number, signal: AbortSignal | undefined): Response {
    if (from > generation.data.length) throw new RequestError('Beyond the end.', 416, 0, 'range_not_satisfiable');
    const cut = this.cuts.shift();
    let offset = from;
    const pull = async (controller: ReadableStreamDefaultController<Uint8Array>): Promise<void> => {
      while (offset >= generation.data.length && generation.state === 'running') {
        await new Promise<void>((resolve, reject) => {
          this.#waiting.push({wake: resolve, fail: reject});
          signal?.addEventListener('abort', () => reject(new DOMException('', 'AbortError')));
        });
      }
      const limit = cut ? from + cut.bytes : Infinity;
      if (offset >= limit && cut) return breakOff(controller, cut);
      if (offset >= generation.data.length) {
        if (generation.error) controller.enqueue(errorLine(generation.error));
        return controller.close();
      }
      const end = Math.min(offset + this.pieceSize, generation.data.length, limit);
      controller.enqueue(generation.data.slice(offset, end));
      offset = end;
    };
    return new Response(new ReadableStream({pull}, {highWaterMark: 0}));
  }

  #wake(): void {
    for (const {wake} of this.#waiting.splice(0)) wake();
  }
}

function breakOff(controller: ReadableStreamDefaultController<Uint8Array>, {how}: Cut): void {
  if (how === 'break') return controller.error(new TypeError('network error'));
  if (how !== 'end') controller.enqueue(concat(encoder.encode('\n'), errorLine(how.code)));
  controller.close();
}

function errorLine(code: string): Uint8Array {
  return encoder.encode(`${JSON.stringify({error: {code, message: `It is ${code}.`}})}\n`);
}

function concat(a: Uint8Array, b: Uint8Array): Uint8Array {
  const both = new Uint8Array(a.length + b.length);
  both.set(a);
  both.set(b, a.length);
  return both;
}
