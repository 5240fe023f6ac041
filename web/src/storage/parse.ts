/** Conversations of files and of desktops: nothing in them is believed. What is not known is dropped. */
import {isObject} from '../api/http';
import {
  newConversation, newMessage, type Attachment, type Conversation, type GenerationReference, type Id, type Message, type MessageState, type ModelOptions,
  type Role, type Statistics, type Timed, type ToolCall,
} from './conversation';

const ID = /^[0-9a-f]{32}$/;
const ROLES: readonly Role[] = ['user', 'assistant', 'tool'];
const STATES: readonly MessageState[] = ['streaming', 'complete', 'stopped', 'failed'];
const MEDIA_TYPE = /^[\w.+-]{1,64}\/[\w.+-]{1,64}$/;
const BASE64 = /^[A-Za-z0-9+/]*={0,2}$/;
const OPTION = /^[a-z_]{1,40}$/;
/** Of the year 2200: a later time would make a change win for good. */
const MAX_TIME = 7_258_118_400_000;
const MAX_TEXT = 16 * 1024 * 1024;
const MAX_SHORT_TEXT = 1_000;
const MAX_MESSAGES = 50_000;
const MAX_PARTS = 100;
const MAX_DEPTH = 32;

/** Why a document is no conversation of this page. */
export type Refusal = 'newer' | 'invalid';

/** Returns the conversation in a decoded JSON document, or why there is none. */
export function parseConversation(value: unknown): Conversation | Refusal {
  if (!isObject(value)) return 'invalid';
  if (typeof value['version'] === 'number' && value['version'] > 1) return 'newer';
  const {id, messages} = value;
  if (value['version'] !== 1 || !isId(id) || !isObject(messages)) return 'invalid';
  const parsed = Object.entries(messages).slice(0, MAX_MESSAGES).map(([key, each]) => parseMessage(key, each)).filter(each => each !== null);
  const blank = newConversation(timeIn(value['createdAt']));
  return {
    ...blank,
    id,
    title: parseTimed(value['title'], each => shortText(each), blank.title),
    system: parseTimed(value['system'], each => text(each), blank.system),
    options: parseTimed(value['options'], parseOptions, blank.options),
    think: parseTimed(value['think'], parseThink, blank.think),
    model: parseTimed(value['model'], each => shortText(each), blank.model),
    desktop: parseTimed(value['desktop'], each => shortText(each), blank.desktop),
    leaf: parseTimed(value['leaf'], each => (isId(each) ? each : null), blank.leaf),
    messages: Object.fromEntries(parsed.map(message => [message.id, message])),
  };
}

export function isId(value: unknown): value is Id {
  return typeof value === 'string' && ID.test(value);
}

function parseMessage(key: string, value: unknown): Message | null {
  if (!isObject(value)) return null;
  const {id, parent} = value;
  const role = ROLES.find(each => each === value['role']);
  const state = STATES.find(each => each === value['state']);
  if (!isId(id) || id !== key || !role || !state) return null;
  const content = text(value['content']);
  return {
    ...newMessage({role}, timeIn(value['createdAt'])),
    id,
    parent: isId(parent) ? parent : null,
    content,
    prefix: Math.min(count(value['prefix']), content.length),
    thinking: text(value['thinking']),
    attachments: list(value['attachments'], parseAttachment),
    toolCalls: list(value['toolCalls'], parseToolCall),
    toolName: shortText(value['toolName']),
    model: shortText(value['model']),
    state,
    error: shortText(value['error']),
    generation: parseGeneration(value['generation']),
    statistics: parseStatistics(value['statistics']),
    updatedAt: timeIn(value['updatedAt']),
  };
}

/** Returns the attachments in a stored text; none if it is damaged. */
export function parseAttachments(stored: string | null): readonly Attachment[] {
  try {
    return list(JSON.parse(stored ?? '[]'), parseAttachment);
  } catch {
    return [];
  }
}

function parseAttachment(value: unknown): Attachment | null {
  if (!isObject(value)) return null;
  const {kind, name, type, data} = value;
  if ((kind !== 'image' && kind !== 'text') || typeof type !== 'string' || !MEDIA_TYPE.test(type)) return null;
  if (typeof data !== 'string' || data.length > MAX_TEXT) return null;
  if (kind === 'image' && (!BASE64.test(data) || !/^image\/(png|jpeg|gif|webp|avif|bmp)$/.test(type))) return null;
  return {kind, name: shortText(name), type, data};
}

function parseToolCall(value: unknown): ToolCall | null {
  if (!isObject(value) || typeof value['name'] !== 'string') return null;
  const {name, arguments: given} = value;
  return {name: shortText(name), arguments: isDeeper(given, MAX_DEPTH) ? {} : given ?? {}};
}

function parseGeneration(value: unknown): GenerationReference | null {
  if (!isObject(value) || !isId(value['id'])) return null;
  return {id: value['id'], desktop: shortText(value['desktop'])};
}

function parseStatistics(value: unknown): Statistics | null {
  if (!isObject(value)) return null;
  return {
    totalDuration: count(value['totalDuration']),
    loadDuration: count(value['loadDuration']),
    promptTokens: count(value['promptTokens']),
    promptDuration: count(value['promptDuration']),
    tokens: count(value['tokens']),
    duration: count(value['duration']),
  };
}

function parseOptions(value: unknown): ModelOptions {
  if (!isObject(value)) return {};
  const known = Object.entries(value).filter(([name, each]) => OPTION.test(name) && isOptionValue(each));
  return Object.fromEntries(known.slice(0, MAX_PARTS)) as ModelOptions;
}

function isOptionValue(value: unknown): boolean {
  return typeof value === 'boolean' || Number.isFinite(value) || (typeof value === 'string' && value.length <= MAX_SHORT_TEXT);
}

function parseThink(value: unknown): boolean | string | null {
  return typeof value === 'boolean' ? value : shortText(value) || null;
}

function parseTimed<T>(value: unknown, parse: (value: unknown) => T, fallback: Timed<T>): Timed<T> {
  return isObject(value) ? {value: parse(value['value']), at: timeIn(value['at'])} : fallback;
}

function list<T>(value: unknown, parse: (value: unknown) => T | null): readonly T[] {
  if (!Array.isArray(value)) return [];
  return value.slice(0, MAX_PARTS).map(parse).filter(each => each !== null);
}

function text(value: unknown): string {
  return typeof value === 'string' ? value.slice(0, MAX_TEXT) : '';
}

function shortText(value: unknown): string {
  return typeof value === 'string' ? value.slice(0, MAX_SHORT_TEXT) : '';
}

function count(value: unknown): number {
  return typeof value === 'number' && Number.isFinite(value) ? Math.max(0, value) : 0;
}

function timeIn(value: unknown): number {
  return Math.min(Math.floor(count(value)), MAX_TIME);
}

/** Whether arrays and objects are nested deeper than `depth`. */
function isDeeper(value: unknown, depth: number): boolean {
  if (typeof value !== 'object' || value === null) return false;
  return depth === 0 || Object.values(value).some(each => isDeeper(each, depth - 1));
}
