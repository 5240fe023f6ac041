/** The conversations on a desktop: requests to `/ctllm/desktop/conversations`. */
import {isObject, RequestError, type RequestOptions} from '../api/http';
import type {Conversation, Id} from './conversation';
import {isId} from './parse';

export interface RemoteChange {
  readonly id: Id;
  readonly revision: number;
  readonly size: number;
  readonly deleted: boolean;
}

export interface RemoteChanges {
  readonly revision: number;
  readonly conversations: readonly RemoteChange[];
  /** Conversations whose files on the desktop cannot be read. */
  readonly damaged: readonly Id[];
}

export interface RemoteCopy {
  readonly revision: number;
  /** Decoded JSON. */
  readonly document: unknown;
}

/** All of them throw a RequestError, or the AbortError of the signal. */
export interface SyncClient {
  list(desktop: string, since: number, signal: AbortSignal): Promise<RemoteChanges>;
  get(desktop: string, id: Id, signal: AbortSignal): Promise<RemoteCopy>;
  /** Replaces the copy of that revision; 0 if there must be none. Returns the new revision. */
  put(desktop: string, conversation: Conversation, revision: number, signal: AbortSignal): Promise<number>;
  delete(desktop: string, id: Id, signal: AbortSignal): Promise<void>;
}

const PATH = '/ctllm/desktop/conversations';

type Send = (method: string, path: string, options: RequestOptions) => Promise<Response>;

/** Returns the client that sends requests with `send`. */
export function httpSyncClient(send: Send): SyncClient {
  const options = (desktop: string, signal: AbortSignal, headers: Readonly<Record<string, string>> = {}): RequestOptions =>
    ({signal, headers: {'Ctllm-Desktop': desktop, ...headers}});
  return {
    async list(desktop, since, signal) {
      return parseChanges(await readJson(await send('GET', `${PATH}?since=${since}`, options(desktop, signal))));
    },
    async get(desktop, id, signal) {
      const response = await send('GET', `${PATH}/${id}`, options(desktop, signal));
      const revision = /^"(\d{1,16})"$/.exec(response.headers.get('ETag') ?? '')?.[1];
      if (!revision) throw unexpected();
      return {revision: Number(revision), document: await readJson(response)};
    },
    async put(desktop, conversation, revision, signal) {
      const condition: Readonly<Record<string, string>> = revision ? {'If-Match': `"${revision}"`} : {'If-None-Match': '*'};
      const response = await send('PUT', `${PATH}/${conversation.id}`, {...options(desktop, signal, condition), body: conversation});
      const body = await readJson(response);
      if (!isObject(body) || !isRevision(body['revision'])) throw unexpected();
      return body['revision'];
    },
    async delete(desktop, id, signal) {
      await send('DELETE', `${PATH}/${id}`, options(desktop, signal));
    },
  };
}

function parseChanges(body: unknown): RemoteChanges {
  if (!isObject(body) || !isRevision(body['revision']) || !Array.isArray(body['conversations'])) throw unexpected();
  const damaged = Array.isArray(body['damaged']) ? body['damaged'].filter(isId) : [];
  return {revision: body['revision'], conversations: body['conversations'].map(parseChange).filter(each => each !== null), damaged};
}

function parseChange(value: unknown): RemoteChange | null {
  if (!isObject(value)) return null;
  const {id, revision, size, deleted} = value;
  if (!isId(id) || !isRevision(revision)) return null;
  return {id, revision, size: typeof size === 'number' ? size : 0, deleted: deleted === true};
}

function isRevision(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

/** More than a desktop stores of a conversation. */
const MAX_BODY = 40 * 1024 * 1024;

/** A body that is not JSON, is too long, or breaks off, is a failure of the server. */
async function readJson(response: Response): Promise<unknown> {
  try {
    const body = await readBody(response);
    if (body) return JSON.parse(await body.text()) as unknown;
  } catch (error) {
    if (error instanceof DOMException && error.name === 'AbortError') throw error;
    throw new RequestError('The response of the desktop broke off.', 0);
  }
  throw unexpected();
}

/** Returns a body; null if it is too long. */
async function readBody(response: Response): Promise<Blob | null> {
  const reader = response.body?.getReader();
  const chunks: Uint8Array<ArrayBuffer>[] = [];
  for (let size = 0; reader;) {
    const {done, value} = await reader.read();
    if (done) break;
    size += value.length;
    if (size > MAX_BODY) {
      await reader.cancel();
      return null;
    }
    chunks.push(value);
  }
  return new Blob(chunks);
}

function unexpected(): RequestError {
  return new RequestError('The desktop sent a response that this page does not understand.', 0);
}
