/** A conversation: a tree of messages. It is one JSON document, in this browser and on a desktop. */

/** 32 hexadecimal digits. */
export type Id = string;

export type Role = 'user' | 'assistant' | 'tool';

/** How a message of the model ended; `streaming` while it has not. */
export type MessageState = 'streaming' | 'complete' | 'stopped' | 'failed';

export interface ToolCall {
  readonly name: string;
  readonly arguments: unknown;
}

/** An attachment: an image (base64 without a prefix), or a text file. */
export interface Attachment {
  readonly kind: 'image' | 'text';
  readonly name: string;
  /** The media type. */
  readonly type: string;
  readonly data: string;
}

/** Times and counts that Ollama reports with the last line of a response; nanoseconds. */
export interface Statistics {
  readonly totalDuration: number;
  readonly loadDuration: number;
  readonly promptTokens: number;
  readonly promptDuration: number;
  readonly tokens: number;
  readonly duration: number;
}

/** Which generation gives this message its content. */
export interface GenerationReference {
  readonly id: Id;
  /** The id of the desktop that runs it. */
  readonly desktop: string;
}

export interface Message {
  readonly id: Id;
  /** The message before it; null for the first. Messages with the same parent are branches. */
  readonly parent: Id | null;
  readonly role: Role;
  readonly content: string;
  /** How many UTF-16 units of `content` precede what the generation gives: of an answer that continues another. */
  readonly prefix: number;
  readonly thinking: string;
  readonly attachments: readonly Attachment[];
  readonly toolCalls: readonly ToolCall[];
  /** The tool whose result this is; only of role `tool`. */
  readonly toolName: string;
  /** The model that wrote it; only of role `assistant`. */
  readonly model: string;
  readonly state: MessageState;
  /** What went wrong; a sentence. */
  readonly error: string;
  readonly generation: GenerationReference | null;
  readonly statistics: Statistics | null;
  /** Epoch milliseconds. */
  readonly createdAt: number;
  readonly updatedAt: number;
}

/** A value with the time of its change, epoch milliseconds: of two, the later one counts. */
export interface Timed<T> {
  readonly value: T;
  readonly at: number;
}

/** Ollama's options, such as temperature and num_ctx. */
export type ModelOptions = Readonly<Record<string, number | string | boolean>>;

export interface Conversation {
  readonly version: 1;
  readonly id: Id;
  readonly createdAt: number;
  readonly title: Timed<string>;
  readonly system: Timed<string>;
  readonly options: Timed<ModelOptions>;
  /** Ollama's `think`: true, false, a level, or null for the model's default. */
  readonly think: Timed<boolean | string | null>;
  readonly model: Timed<string>;
  /** The id of the desktop that is asked; '' for the best one. */
  readonly desktop: Timed<string>;
  /** The last message of the branch that is shown; null without messages. */
  readonly leaf: Timed<Id | null>;
  readonly messages: Readonly<Record<Id, Message>>;
}

/** A conversation without its messages: what is stored in one record. */
export type ConversationHead = Omit<Conversation, 'messages'>;

/** What the list of conversations shows. */
export interface ConversationSummary {
  readonly id: Id;
  readonly title: string;
  readonly createdAt: number;
  /** When the last message was added or changed, or the conversation renamed; epoch milliseconds. */
  readonly updatedAt: number;
  /** The number of messages, of all branches. */
  readonly messages: number;
  /** The number of messages that stream. */
  readonly running: number;
}

const NEVER = 0;

/** Returns a new conversation without messages. */
export function newConversation(now: number, initial: Partial<InitialValues> = {}): Conversation {
  const values: InitialValues = {...INITIAL, ...initial};
  const timed = <T>(value: T, initialValue: T): Timed<T> => ({value, at: value === initialValue ? NEVER : now});
  return {
    version: 1,
    id: values.id || newId(),
    createdAt: now,
    title: timed(values.title, ''),
    system: timed(values.system, ''),
    options: timed(values.options, INITIAL.options),
    think: timed(values.think, null),
    model: timed(values.model, ''),
    desktop: timed(values.desktop, ''),
    leaf: {value: null, at: NEVER},
    messages: {},
  };
}

/** What a new conversation may begin with. */
export interface InitialValues {
  readonly id: Id;
  readonly title: string;
  readonly system: string;
  readonly options: ModelOptions;
  readonly think: boolean | string | null;
  readonly model: string;
  readonly desktop: string;
}

const INITIAL: InitialValues = {id: '', title: '', system: '', options: {}, think: null, model: '', desktop: ''};

/** Returns a new message; what is not given is empty, and it is complete. */
export function newMessage(values: NewMessage, now: number): Message {
  return {
    id: newId(), parent: null, content: '', prefix: 0, thinking: '', attachments: [], toolCalls: [], toolName: '', model: '',
    state: 'complete', error: '', generation: null, statistics: null, createdAt: now, updatedAt: now, ...values,
  };
}

export type NewMessage = Partial<Message> & Pick<Message, 'role'>;

export function isTerminal(message: Message): boolean {
  return message.state !== 'streaming';
}

/** Returns what the list of conversations shows of one. */
export function summarize(conversation: Conversation): ConversationSummary {
  const messages = Object.values(conversation.messages);
  const times = messages.map(message => message.updatedAt);
  return {
    id: conversation.id,
    title: conversation.title.value,
    createdAt: conversation.createdAt,
    updatedAt: times.reduce((latest, time) => Math.max(latest, time), Math.max(conversation.createdAt, conversation.title.at)),
    messages: messages.length,
    running: messages.filter(message => !isTerminal(message)).length,
  };
}

/** Returns a new id. */
export function newId(): Id {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, byte => byte.toString(16).padStart(2, '0')).join('');
}
