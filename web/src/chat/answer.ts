/** An answer that is being read: signals that change at most once a frame, however many tokens arrive. */
import {batch, signal} from '@preact/signals';
import {isObject} from '../api/http';
import type {Message, Statistics, ToolCall} from '../storage/conversation';
import {GrowingText} from '../markdown/growing-text';
import {afterFrame} from '../ui/tasks';
import {isEnd, isInterruption, type Phase} from './generation-state';
import {readStatistics} from './statistics';

/** What the lines of a response add up to. */
export interface AnswerParts {
  readonly content: string;
  readonly thinking: string;
  readonly toolCalls: readonly ToolCall[];
  readonly statistics: Statistics | null;
  /** Why Ollama ended it, such as "stop" and "length"; ''. */
  readonly doneReason: string;
}

/** Calls `work` once, with or after the next frame; returns what cancels that. */
export type Schedule = (work: () => void) => () => void;

export class Answer {
  readonly content;
  readonly thinking;
  readonly toolCalls;
  readonly phase = signal<Phase>('starting');
  /** Why it waits: a sentence, or ''. */
  readonly reason = signal('');
  /** Since when the desktop has not answered, in epoch milliseconds; null while it does. */
  readonly silentSince = signal<number | null>(null);
  /** The texts of the parts, for who shows them. */
  readonly texts = {content: new GrowingText(), thinking: new GrowingText()};
  /** Epoch milliseconds. */
  readonly startedAt: number;
  readonly #prefix: string;
  readonly #schedule: Schedule;
  #parts: AnswerParts;
  #cancelFrame: (() => void) | null = null;

  constructor({content, prefix, createdAt}: Pick<Message, 'content' | 'prefix' | 'createdAt'>, schedule: Schedule = afterFrame) {
    this.#prefix = content.slice(0, prefix);
    this.#schedule = schedule;
    this.startedAt = createdAt;
    this.#parts = {content: this.#prefix, thinking: '', toolCalls: [], statistics: null, doneReason: ''};
    this.texts.content.append(this.#prefix);
    this.content = signal(this.#prefix);
    this.thinking = signal('');
    this.toolCalls = signal<readonly ToolCall[]>([]);
  }

  /** All that has arrived, whether it is shown already or not. */
  get parts(): AnswerParts {
    return this.#parts;
  }

  /** Whether anything has arrived. */
  get isEmpty(): boolean {
    const {content, thinking, toolCalls} = this.#parts;
    return content === this.#prefix && thinking === '' && toolCalls.length === 0;
  }

  add(line: Readonly<Record<string, unknown>>): void {
    this.#parts = addLine(this.#parts, line);
    this.texts.content.append(readPart(line, 'content'));
    this.texts.thinking.append(readPart(line, 'thinking'));
    this.#cancelFrame ??= this.#schedule(() => this.show());
  }

  /** Takes over how far the reading is. An interruption lasts until the desktop answers: attempts do not end it. */
  setPhase(phase: Phase, reason: string, now: number): void {
    batch(() => {
      this.phase.value = phase;
      this.reason.value = reason;
      if (isInterruption(phase)) this.silentSince.value ??= now;
      else if (isEnd(phase)) this.silentSince.value = null;
    });
  }

  /** The desktop has answered. */
  endSilence(): void {
    this.silentSince.value = null;
  }

  /** Shows what has arrived. */
  show(): void {
    this.#cancelFrame?.();
    this.#cancelFrame = null;
    batch(() => {
      this.content.value = this.#parts.content;
      this.thinking.value = this.#parts.thinking;
      this.toolCalls.value = this.#parts.toolCalls;
    });
  }
}

/** Returns the parts after a line of Ollama's /api/chat. */
export function addLine(parts: AnswerParts, line: Readonly<Record<string, unknown>>): AnswerParts {
  const message = readMessage(line);
  const isDone = line['done'] === true;
  const calls = Array.isArray(message['tool_calls']) ? message['tool_calls'].map(readToolCall).filter(each => each !== null) : [];
  return {
    content: parts.content + readPart(line, 'content'),
    thinking: parts.thinking + readPart(line, 'thinking'),
    toolCalls: calls.length ? [...parts.toolCalls, ...calls] : parts.toolCalls,
    statistics: isDone ? readStatistics(line) : parts.statistics,
    doneReason: isDone ? readText(line['done_reason']) : parts.doneReason,
  };
}

function readMessage(line: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>> {
  return isObject(line['message']) ? line['message'] : {};
}

function readPart(line: Readonly<Record<string, unknown>>, name: 'content' | 'thinking'): string {
  return readText(readMessage(line)[name]);
}

function readText(value: unknown): string {
  return typeof value === 'string' ? value : '';
}

function readToolCall(value: unknown): ToolCall | null {
  const call = isObject(value) ? value['function'] : undefined;
  if (!isObject(call) || typeof call['name'] !== 'string') return null;
  return {name: call['name'], arguments: call['arguments'] ?? null};
}
