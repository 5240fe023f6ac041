/** The answers that this page reads: those that it asked for, and those that it finds in progress. */
import {computed, signal} from '@preact/signals';
import type {Conversation, Id, Message} from '../storage/conversation';
import {messageOf, updateMessage} from '../storage/tree';
import {holdInTab, isHeldByTab} from '../ui/tab-lock';
import {nextTask} from '../ui/tasks';
import {Answer} from './answer';
import {chatRequest} from './chat-request';
import {cancelGeneration, GenerationClient, type Surroundings} from './generation-client';
import type {End} from './generation-state';

/** What the answers need of the conversations. */
export interface Conversations {
  update(id: Id, change: (conversation: Conversation) => Conversation): Promise<Conversation | null>;
}

/** The sentences for what no server says. */
export interface Sentences {
  readonly gone: string;
  readonly interrupted: string;
}

/** Is told of each answer that this page has read to its end, when that is stored. */
export type EndListener = (conversation: Id, end: End) => void;

interface Running {
  readonly answer: Answer;
  readonly client: GenerationClient;
  readonly conversation: Id;
}

/** While an answer arrives, it is stored this often. */
const CHECKPOINT_MS = 3_000;
/** An answer that is older, and that the desktop does not have, is not started again. */
const MAX_START_AGE_MS = 60_000;

export class Answers {
  readonly #running = signal<ReadonlyMap<Id, Running>>(new Map());
  /** The ids of the conversations with an answer that is being read. */
  readonly conversations = computed(() => new Set([...this.#running.value.values()].map(({conversation}) => conversation)));
  readonly #conversations: Conversations;
  readonly #surroundings: Surroundings;
  readonly #sentences: () => Sentences;
  readonly #onEnd: EndListener;
  readonly #claimed = new Set<Id>();

  constructor(conversations: Conversations, surroundings: Surroundings, sentences: () => Sentences, onEnd: EndListener) {
    this.#conversations = conversations;
    this.#surroundings = surroundings;
    this.#sentences = sentences;
    this.#onEnd = onEnd;
  }

  /** Returns the answer that a message is being given; undefined if none is. */
  of(message: Id): Answer | undefined {
    return this.#running.value.get(message)?.answer;
  }

  /** Says that `read` will be called for a message that is not stored yet. */
  claim(id: Id): void {
    this.#claimed.add(id);
  }

  /** Starts the generation of a message that is stored, or goes on reading it. */
  read(conversation: Conversation, id: Id, {isResumed}: {readonly isResumed: boolean}): void {
    this.#claimed.delete(id);
    const message = messageOf(conversation, id);
    if (!message || message.state !== 'streaming' || this.#running.peek().has(id)) return;
    const {generation} = message;
    const answer = new Answer(message);
    const client = new GenerationClient(
      {
        id: generation?.id ?? '',
        desktop: generation?.desktop ?? conversation.desktop.value,
        conversation: conversation.id,
        message: id,
        body: () => chatRequest(conversation, id),
        isRetained: generation !== null,
        isResumed,
        mayStart: message.content.length === message.prefix && Date.now() - message.createdAt < MAX_START_AGE_MS,
      },
      {
        onLine: line => answer.add(line),
        onPhase: (phase, reason) => answer.setPhase(phase, reason, Date.now()),
        onContact: () => answer.endSilence(),
      },
      this.#surroundings,
    );
    this.#set(id, {answer, client, conversation: conversation.id});
    void this.#follow(conversation.id, id, answer, client);
  }

  /** Goes on reading the answers of a conversation that were in progress when the page was closed, or are on another device. */
  resume(conversation: Conversation): void {
    for (const message of Object.values(conversation.messages)) {
      if (message.state !== 'streaming' || this.#claimed.has(message.id) || this.#running.peek().has(message.id)) continue;
      if (message.generation) this.read(conversation, message.id, {isResumed: true});
      else void this.#endUnlessHeld(conversation.id, message.id);
    }
  }

  /** Asks the desktop for the rest of an answer at once. */
  retryNow(id: Id): void {
    this.#running.peek().get(id)?.client.retryNow();
  }

  /** Ends an answer: here, and at the desktop. */
  stop(conversation: Conversation, id: Id): void {
    const running = this.#running.peek().get(id);
    if (running) {
      running.client.stop();
      return;
    }
    const reference = messageOf(conversation, id)?.generation;
    if (reference) void cancelGeneration(reference.id, reference.desktop, this.#surroundings);
    void this.#end(conversation.id, id, {state: 'stopped'});
  }

  /** Ends the answers of conversations that are not in `kept`, here and at the desktop: they were deleted. */
  stopAllBut(kept: ReadonlySet<Id>): void {
    for (const {client, conversation} of this.#running.peek().values()) if (!kept.has(conversation)) client.stop();
  }

  /** Ends the reading of all answers, when somebody else logs in. */
  abandon(): void {
    for (const {client} of this.#running.peek().values()) client.abandon();
    this.#running.value = new Map();
  }

  async #follow(conversation: Id, id: Id, answer: Answer, client: GenerationClient): Promise<void> {
    const release = holdInTab(lockName(id));
    let stored = '';
    const timer = setInterval(() => {
      const {content, thinking} = answer.parts;
      if (answer.isEmpty || stored === content + thinking) return;
      stored = content + thinking;
      void this.#store(conversation, id, longerParts(answer));
    }, CHECKPOINT_MS);
    try {
      await nextTask(); // that it waits is shown before it asks
      const end = await client.run();
      if (!end) return;
      await this.#finish(conversation, id, answer, end);
      this.#onEnd(conversation, end);
    } finally {
      clearInterval(timer);
      release();
      if (this.#running.peek().get(id)?.client === client) this.#set(id, null);
    }
  }

  async #finish(conversation: Id, id: Id, answer: Answer, end: End): Promise<void> {
    answer.show();
    const sentences = this.#sentences();
    const {statistics, toolCalls} = answer.parts;
    if (end === 'complete') {
      const {content, thinking} = answer.parts;
      await this.#end(conversation, id, {state: 'complete', content, thinking, toolCalls, statistics, error: ''});
    } else {
      const state = end === 'stopped' ? 'stopped' : 'failed';
      const error = end === 'stopped' ? '' : end === 'gone' ? sentences.gone : answer.reason.peek() || sentences.interrupted;
      const longer = longerParts(answer);
      await this.#end(conversation, id, message => ({state, error, ...longer(message)}), end === 'gone');
    }
  }

  #store(conversation: Id, id: Id, change: (message: Message) => Partial<Message>): Promise<Conversation | null> {
    return this.#conversations.update(conversation, current => {
      const message = messageOf(current, id);
      return message?.state === 'streaming' ? updateMessage(current, id, change(message)) : current;
    });
  }

  /** Stores how an answer ended, unless that is stored already. */
  #end(conversation: Id, id: Id, change: Partial<Message> | ((message: Message) => Partial<Message>), isLate = false): Promise<Conversation | null> {
    return this.#conversations.update(conversation, current => {
      const message = messageOf(current, id);
      if (message?.state !== 'streaming') return current;
      const values = typeof change === 'function' ? change(message) : change;
      // A device that comes too late must not win over the one that has read the answer.
      return isLate ? updateMessage(current, id, values, 0) : updateMessage(current, id, values);
    });
  }

  /** Ends an answer that nobody reads, and that cannot be read again. */
  async #endUnlessHeld(conversation: Id, id: Id): Promise<void> {
    if (await isHeldByTab(lockName(id))) return;
    await this.#end(conversation, id, {state: 'failed', error: this.#sentences().interrupted});
  }

  #set(id: Id, running: Running | null): void {
    const next = new Map(this.#running.peek());
    if (running) next.set(id, running);
    else next.delete(id);
    this.#running.value = next;
  }
}

/** What has arrived, where it is more than what is stored: an answer that is read again begins at its beginning. */
function longerParts(answer: Answer): (message: Message) => Partial<Message> {
  const {content, thinking, toolCalls} = answer.parts;
  return message => ({
    ...(content.length > message.content.length ? {content} : {}),
    ...(thinking.length > message.thinking.length ? {thinking} : {}),
    ...(toolCalls.length > message.toolCalls.length ? {toolCalls} : {}),
  });
}

function lockName(message: Id): string {
  return `ctllm-answer-${message}`;
}
