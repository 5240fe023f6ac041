/** Reads an answer to its end, whatever breaks: docs/stream.md is the protocol. */
import {isObject, readError, readJson, RequestError, type RequestOptions} from '../api/http';
import type {GenerationStatus} from '../api/types';
import {classifyRefusal, isEnd, nextPhase, retryDelay, type End, type Event, type Phase} from './generation-state';
import {LineDecoder} from './line-decoder';

export type Send = (method: string, path: string, options: RequestOptions) => Promise<Response>;

export interface GenerationRequest {
  readonly id: string;
  readonly desktop: string;
  readonly conversation: string;
  readonly message: string;
  /** Returns the body for Ollama. */
  readonly body: () => Readonly<Record<string, unknown>>;
  /** Whether the desktop runs generations; if not, the response is read once, and a break is its end. */
  readonly isRetained: boolean;
  /** Whether it may have been started before: by this page before it was reloaded, or by another one. */
  readonly isResumed: boolean;
  /** Whether it is started if the desktop does not have it: the page may have been closed before the start arrived. */
  readonly mayStart: boolean;
}

export interface GenerationListener {
  readonly onLine: (line: Readonly<Record<string, unknown>>) => void;
  /** `reason` is why it waits, or failed: a sentence, or ''. */
  readonly onPhase: (phase: Phase, reason: string) => void;
  /** The desktop can be reached, as far as is known. */
  readonly onContact: () => void;
}

/** What the client needs of the browser; tests replace it. */
export interface Surroundings {
  readonly send: Send;
  readonly isHidden: () => boolean;
  /** Calls `wake` when trying at once is of use: the network is back, or the page is seen again. Returns what ends that. */
  readonly onWake: (wake: (hasNewNetwork: boolean) => void) => () => void;
  readonly random: () => number;
  /** After how many milliseconds without a byte the connection is made again. */
  readonly stallMs: number;
  /** Multiplies all delays. */
  readonly pace: number;
}

/** A page that is seen again, and has received nothing for so long, does not trust its connection. */
const SILENCE_MS = 2_000;
/** Of `stallMs`: how long a request may be without a response. One that starts has attachments to send, and a model to load. */
const PATIENCE = {start: 10, resume: 2} as const;
/** A request that has not failed after this part of `stallMs` is on its way. */
const IS_SENT = 1 / 6;
const PATH = '/ctllm/desktop/generations';

export class GenerationClient {
  readonly #request: GenerationRequest;
  readonly #listener: GenerationListener;
  readonly #surroundings: Surroundings;
  #phase: Phase;
  #offset = 0;
  #failures = 0;
  #reason = '';
  #hasOpened = false;
  #attempt: AbortController | null = null;
  #endWait: (() => void) | null = null;
  #lastByteAt = 0;
  #isAbandoned = false;

  constructor(request: GenerationRequest, listener: GenerationListener, surroundings: Surroundings) {
    this.#request = request;
    this.#listener = listener;
    this.#surroundings = surroundings;
    this.#phase = request.isResumed ? 'resuming' : 'starting';
  }

  /** Reads to the end; resolves with it, or with null after `abandon`. */
  async run(): Promise<End | null> {
    const ignore = this.#surroundings.onWake(hasNewNetwork => this.#wake(hasNewNetwork));
    try {
      this.#listener.onPhase(this.#phase, '');
      while (!isEnd(this.#phase) && !this.#isAbandoned) {
        const event = await this.#act();
        if (!this.#isAbandoned) this.#apply(event);
      }
    } finally {
      ignore();
    }
    return !this.#isAbandoned && isEnd(this.#phase) ? this.#phase : null;
  }

  /** Ends the generation at the desktop, and the reading. */
  stop(): void {
    if (isEnd(this.#phase)) return;
    this.#apply('stop');
    this.#interrupt();
    if (this.#request.isRetained) void this.#cancelAtDesktop();
  }

  /** Tries at once, and not when the wait is over: the person asks for it. */
  retryNow(): void {
    this.#failures = 0;
    this.#wake(true);
  }

  /** Ends the reading only. */
  abandon(): void {
    this.#isAbandoned = true;
    this.#interrupt();
  }

  #apply(event: Event): void {
    const phase = nextPhase(this.#phase, event);
    if (phase === this.#phase) return;
    this.#phase = phase;
    this.#listener.onPhase(phase, phase === 'reading' || phase === 'stopped' ? '' : this.#reason);
  }

  #act(): Promise<Event> {
    switch (this.#phase) {
      case 'starting':
        return this.#open('start');
      case 'resuming':
        return this.#open('resume');
      case 'checking':
        return this.#check();
      default:
        return this.#wait();
    }
  }

  async #open(purpose: 'start' | 'resume'): Promise<Event> {
    const attempt = new AbortController();
    this.#attempt = attempt;
    const patience = this.#limitPatience(purpose, attempt);
    try {
      const response = await this.#ask(purpose, attempt.signal);
      patience.end();
      if (isEnd(this.#phase)) return 'stop';
      this.#hasOpened = true;
      this.#listener.onContact();
      this.#apply('opened');
      return await this.#read(response, attempt);
    } catch (error) {
      const event = this.#describe(purpose, error);
      return patience.isOver() && event === 'broke' ? 'expired' : event;
    } finally {
      patience.end();
      attempt.abort();
      this.#attempt = null;
    }
  }

  /** Ends an attempt that has no response for long: then the desktop is asked whether the model still loads. */
  #limitPatience(purpose: 'start' | 'resume', attempt: AbortController): {readonly isOver: () => boolean; readonly end: () => void} {
    const {stallMs} = this.#surroundings;
    let isOver = false;
    if (!this.#request.isRetained) return {isOver: () => false, end: () => {}};
    const timer = setTimeout(() => {
      isOver = true;
      attempt.abort();
    }, PATIENCE[purpose] * stallMs);
    const sent = purpose === 'start' ? setTimeout(() => this.#listener.onContact(), IS_SENT * stallMs) : undefined;
    const end = (): void => {
      clearTimeout(timer);
      clearTimeout(sent);
    };
    return {isOver: () => isOver, end};
  }

  #ask(purpose: 'start' | 'resume', signal: AbortSignal): Promise<Response> {
    const {id, desktop, conversation, message, body, isRetained} = this.#request;
    const headers = {'Ctllm-Desktop': desktop};
    const {send} = this.#surroundings;
    if (!isRetained) return send('POST', '/api/chat', {body: body(), headers, signal});
    if (purpose === 'resume') return send('GET', `${PATH}/${id}?from=${this.#offset}`, {headers, signal});
    return send('POST', PATH, {body: {id, conversation, message, path: '/api/chat', request: body()}, headers, signal});
  }

  async #read(response: Response, attempt: AbortController): Promise<Event> {
    if (!response.body) return 'broke';
    const decoder = new LineDecoder(this.#offset);
    const reader = response.body.getReader();
    const watch = this.#watchForStalls(attempt);
    try {
      for (let part = await reader.read(); !part.done; part = await reader.read()) {
        this.#lastByteAt = Date.now();
        for (const {value, isFault} of decoder.push(part.value)) {
          if (isEnd(this.#phase) || this.#isAbandoned) return 'stop';
          if (isFault) return this.#fault(value);
          const end = this.#takeLine(value);
          if (end) return end;
        }
        this.#offset = decoder.offset;
      }
      return 'broke';
    } finally {
      this.#offset = decoder.offset;
      clearInterval(watch);
    }
  }

  #takeLine(value: Readonly<Record<string, unknown>>): Event | null {
    this.#failures = 0;
    if (typeof value['error'] === 'string') {
      this.#reason = value['error'];
      return 'errored';
    }
    this.#listener.onLine(value);
    return value['done'] === true ? 'done' : null;
  }

  #fault(value: Readonly<Record<string, unknown>>): Event {
    const {code, message} = readError(value);
    if (code === 'cancelled') return 'cancelled';
    this.#reason = message;
    this.#failures += 1;
    if (!this.#request.isRetained) return 'errored';
    return 'faulted';
  }

  #describe(purpose: 'start' | 'resume', error: unknown): Event {
    if (isEnd(this.#phase) || this.#isAbandoned) return 'stop';
    this.#failures += 1;
    if (!(error instanceof RequestError)) return 'broke'; // the connection broke, or this page closed it to make it again
    this.#reason = error.message;
    const event = classifyRefusal(purpose, error.status, error.code);
    return event === 'broke' && !this.#request.isRetained ? 'errored' : event;
  }

  /** Asks the desktop how the generation is, after an error in its response. */
  async #check(): Promise<Event> {
    try {
      const headers = {'Ctllm-Desktop': this.#request.desktop};
      const signal = AbortSignal.timeout(this.#surroundings.stallMs);
      const body = await readJson(await this.#surroundings.send('GET', PATH, {headers, signal}));
      const list = isObject(body) && Array.isArray(body['generations']) ? (body['generations'] as readonly GenerationStatus[]) : [];
      this.#listener.onContact();
      const state = list.find(({id}) => id === this.#request.id)?.state;
      if (!state) return !this.#hasOpened && this.#request.mayStart ? 'unstarted' : 'missing';
      if (state === 'failed') return this.#failures > 1 ? 'errored' : 'running'; // first, what it gave before it failed is read
      return state === 'cancelled' ? 'cancelled' : 'running';
    } catch {
      return 'broke';
    }
  }

  #wait(): Promise<Event> {
    if (!this.#request.isRetained) {
      this.#phase = 'failed';
      this.#listener.onPhase('failed', this.#reason);
      return Promise.resolve('errored');
    }
    const {isHidden, random, pace} = this.#surroundings;
    return new Promise(resolve => {
      const finish = (): void => {
        clearTimeout(timer);
        this.#endWait = null;
        resolve('due');
      };
      const timer = setTimeout(finish, retryDelay(this.#failures, isHidden(), random()) * pace);
      this.#endWait = finish;
    });
  }

  /** A connection of before is often dead without saying so: made again, it goes on where it was. */
  #wake(hasNewNetwork: boolean): void {
    if (this.#endWait) this.#endWait();
    else if (this.#request.isRetained && (hasNewNetwork || (this.#phase === 'reading' && this.#isSilent()))) this.#attempt?.abort();
  }

  #isSilent(): boolean {
    return Date.now() - this.#lastByteAt > SILENCE_MS * this.#surroundings.pace;
  }

  #watchForStalls(attempt: AbortController): ReturnType<typeof setInterval> | undefined {
    this.#lastByteAt = Date.now();
    if (!this.#request.isRetained) return undefined;
    const {stallMs} = this.#surroundings;
    return setInterval(() => { if (Date.now() - this.#lastByteAt > stallMs) attempt.abort(); }, stallMs / 4);
  }

  #interrupt(): void {
    this.#attempt?.abort();
    this.#endWait?.();
  }

  async #cancelAtDesktop(): Promise<void> {
    const {id, desktop} = this.#request;
    await cancelGeneration(id, desktop, this.#surroundings);
  }
}

const MAX_CANCEL_ATTEMPTS = 20;
const MAX_UNKNOWN = 4;

/** Ends a generation at its desktop; tries again while that cannot be reached. */
export async function cancelGeneration(id: string, desktop: string, {send, isHidden, random, pace}: Surroundings): Promise<void> {
  for (let failures = 0; failures < MAX_CANCEL_ATTEMPTS; failures += 1) {
    try {
      await send('DELETE', `${PATH}/${id}`, {headers: {'Ctllm-Desktop': desktop}});
      return;
    } catch (error) {
      // 404: it has ended, or the desktop is connecting again, or the start is on its way.
      const isFinal = error instanceof RequestError && classifyRefusal('resume', error.status, error.code) !== 'broke';
      if (isFinal && (error.status !== 404 || failures >= MAX_UNKNOWN)) return;
    }
    await new Promise(resolve => setTimeout(resolve, retryDelay(failures, isHidden(), random()) * pace));
  }
}

/** The browser. */
export function browserSurroundings(send: Send): Surroundings {
  return {
    send,
    isHidden: () => document.hidden,
    onWake(wake) {
      const onVisibility = (): void => { if (!document.hidden) wake(false); };
      const onOnline = (): void => wake(true);
      addEventListener('online', onOnline);
      document.addEventListener('visibilitychange', onVisibility);
      return () => {
        removeEventListener('online', onOnline);
        document.removeEventListener('visibilitychange', onVisibility);
      };
    },
    random: Math.random,
    stallMs: 30_000,
    pace: 1,
  };
}
