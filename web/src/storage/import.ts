/** Reads files of conversations. Nothing that is here is overwritten: copies of the same conversation are merged. */
import {isObject} from '../api/http';
import {newConversation, newId, type Conversation, type Id, type Role} from './conversation';
import {FORMAT, MARKER} from './export';
import {parseConversation} from './parse';
import type {ConversationRepository} from './repository';
import {addMessage} from './tree';

export const MAX_FILE_SIZE = 256 * 1024 * 1024;
const MAX_CONVERSATIONS = 50_000;

/** Why a file cannot be imported. */
export type ImportProblem = 'tooLarge' | 'notReadable' | 'nothingFound';

export class ImportError extends Error {
  constructor(readonly problem: ImportProblem) {
    super(problem);
    this.name = 'ImportError';
  }
}

export interface Parsed {
  readonly conversations: readonly Conversation[];
  /** Parts of the file that are no conversations of this version. */
  readonly rejected: number;
}

export interface Imported {
  readonly added: number;
  readonly merged: number;
  readonly rejected: number;
}

/** Imports a file into the repository. Throws an ImportError, and an AbortError if another user comes meanwhile. */
export async function importFile(file: Blob, repository: ConversationRepository): Promise<Imported> {
  if (file.size > MAX_FILE_SIZE) throw new ImportError('tooLarge');
  const owner = repository.userId.peek();
  const {conversations, rejected} = parseFile(await readText(file), Date.now());
  if (conversations.length === 0) throw new ImportError('nothingFound');
  const known = new Set(repository.summaries.peek().map(each => each.id));
  let merged = 0;
  for (const conversation of conversations) {
    if (repository.userId.peek() !== owner) throw new DOMException('Another user has logged in.', 'AbortError');
    if (known.has(conversation.id)) merged += 1;
    const written = await repository.mergeIn(conversation);
    // It was deleted here, and the desktops have that mark: it comes back as another one.
    if (!written) await repository.mergeIn({...conversation, id: newId()});
  }
  return {added: conversations.length - merged, merged, rejected};
}

/** Returns the conversations in the text of a file, JSON or Markdown. */
export function parseFile(text: string, now: number): Parsed {
  const trimmed = text.replace(/^\uFEFF/, '').trimStart();
  if (trimmed.startsWith('{') || trimmed.startsWith('[')) return parseJson(trimmed);
  return {conversations: parseMarkdown(trimmed, now), rejected: 0};
}

async function readText(file: Blob): Promise<string> {
  try {
    return new TextDecoder('utf-8', {fatal: true}).decode(await file.arrayBuffer());
  } catch {
    throw new ImportError('notReadable');
  }
}

function parseJson(text: string): Parsed {
  const documents = findDocuments(decode(text)).slice(0, MAX_CONVERSATIONS);
  const conversations = new Map<Id, Conversation>();
  for (const document of documents) {
    const parsed = parseConversation(document);
    if (typeof parsed !== 'string') conversations.set(parsed.id, endStreaming(parsed));
  }
  return {conversations: [...conversations.values()], rejected: documents.length - conversations.size};
}

function decode(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new ImportError('notReadable');
  }
}

/** A file has many conversations, or is one as a desktop stores it. */
function findDocuments(value: unknown): readonly unknown[] {
  if (Array.isArray(value)) return value;
  if (!isObject(value)) return [];
  if (value['format'] === FORMAT && Array.isArray(value['conversations'])) return value['conversations'];
  return 'messages' in value ? [value] : [];
}

/** An answer in a file does not stream any more. */
function endStreaming(conversation: Conversation): Conversation {
  const entries = Object.entries(conversation.messages).map(([id, message]) =>
    [id, message.state === 'streaming' ? {...message, state: 'stopped' as const, generation: null} : message] as const);
  return {...conversation, messages: Object.fromEntries(entries)};
}

/** Reads what `toMarkdown` has written; the conversations are new ones. */
export function parseMarkdown(text: string, now: number): readonly Conversation[] {
  const conversations: Conversation[] = [];
  const lines = text.replace(/\r\n?/g, '\n').split('\n');
  let title = '';
  let current: Conversation | null = null;
  let message: {readonly role: Role; readonly words: readonly string[]; readonly lines: string[]} | null = null;
  const endMessage = (): void => {
    if (current && message) current = addParsed(current, message);
    message = null;
  };
  const endConversation = (): void => {
    endMessage();
    if (current) conversations.push(current);
    current = null;
  };
  for (const [index, line] of lines.entries()) {
    const marker = MARKER.exec(line);
    if (marker && !marker[1]) {
      endMessage();
      current ??= newConversation(now, {title});
      message = {role: marker[2] as Role, words: (marker[3] ?? '').trim().split(' '), lines: []};
    } else if (line.startsWith('# ') && isBeforeMessages(lines, index)) {
      endConversation();
      title = line.slice(2).slice(0, 500).trim();
    } else (message as {lines: string[]} | null)?.lines.push(line);
  }
  endConversation();
  return conversations;
}

/** Whether a heading is followed by the first message: then it is a title, and not part of a text. */
function isBeforeMessages(lines: readonly string[], index: number): boolean {
  const next = lines.slice(index + 1, index + 3).find(line => line.trim());
  const marker = next === undefined ? null : MARKER.exec(next);
  return Boolean(marker && !marker[1]);
}

function addParsed(conversation: Conversation, {role, words, lines}: {readonly role: Role; readonly words: readonly string[]; readonly lines: readonly string[]}): Conversation {
  const [time = '', model = ''] = words;
  const createdAt = Date.parse(time) || conversation.createdAt;
  const body = lines[0]?.startsWith('## ') ? lines.slice(1) : lines;
  const content = body.map(line => line.replace(/^<!-- \\(?=\\*(user|assistant|tool)\b)/, '<!-- ')).join('\n').trim();
  return addMessage(conversation, {role, content, model: role === 'assistant' ? model : '', createdAt, updatedAt: createdAt});
}
