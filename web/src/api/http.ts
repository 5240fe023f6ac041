/** Requests to the server of the page: a cloud, or a desktop on its own machine. */
import {t} from '../i18n/i18n';

/** A request that failed. `status` is 0 without a response; `retryAfter` is in seconds, 0 if retrying is of no use. */
export class RequestError extends Error {
  constructor(
    message: string,
    readonly status = 0,
    readonly retryAfter = 0,
    readonly code = '',
  ) {
    super(message);
    this.name = 'RequestError';
  }

  /** Whether nobody is signed in any more, or somebody who may not use this cloud. */
  get endsSession(): boolean {
    return this.status === 401 || ['user_disabled', 'group_not_allowed'].includes(this.code);
  }
}

export interface RequestOptions {
  /** Is sent as JSON. */
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal | undefined;
}

const UNREACHABLE_RETRY_SECONDS = 5;
const MAX_RETRY_SECONDS = 300;
/** For a response that takes no time: it is small, and no model has to be loaded for it. */
const TIMEOUT_MS = 20_000;

/** Sends a request without credentials; returns a successful response.
 *
 * Throws a RequestError, or the AbortError of `signal`.
 */
export async function request(method: string, path: string, options: RequestOptions = {}): Promise<Response> {
  const {body, headers, signal} = options;
  const response = await fetch(path, {
    method,
    cache: 'no-store',
    redirect: 'error',
    headers: {...(body === undefined ? {} : {'Content-Type': 'application/json'}), ...headers},
    ...(body === undefined ? {} : {body: JSON.stringify(body)}),
    ...(signal ? {signal} : {}),
  }).catch((error: unknown) => {
    if (signal?.aborted) throw error;
    throw new RequestError(t('app.unreachable'), 0, UNREACHABLE_RETRY_SECONDS);
  });
  if (response.ok) return response;
  throw await describeRefusal(response);
}

/** Returns the JSON of a response. Throws a RequestError if it breaks off, or the AbortError of the request. */
export async function readJson<T = unknown>(response: Response): Promise<T> {
  try {
    return (await response.json()) as T;
  } catch (error) {
    if (error instanceof DOMException && error.name === 'AbortError') throw error;
    throw new RequestError(t('app.unreachable'), 0, UNREACHABLE_RETRY_SECONDS);
  }
}

/** Calls `send` with options that end it after some time: a browser may not notice for minutes that a connection is dead.
 *
 * Throws a RequestError then.
 */
export async function withTimeout<T>(
  options: RequestOptions,
  send: (options: RequestOptions) => Promise<T>,
  milliseconds = TIMEOUT_MS,
): Promise<T> {
  const timeout = AbortSignal.timeout(milliseconds);
  const signal = options.signal ? AbortSignal.any([options.signal, timeout]) : timeout;
  try {
    return await send({...options, signal});
  } catch (error) {
    if (!timeout.aborted || options.signal?.aborted) throw error;
    throw new RequestError(t('app.unreachable'), 0, UNREACHABLE_RETRY_SECONDS);
  }
}

async function describeRefusal(response: Response): Promise<RequestError> {
  const body: unknown = await response.json().catch(() => null);
  const {message, code} = readError(body);
  const seconds = Number.parseInt(response.headers.get('Retry-After') ?? '', 10) || UNREACHABLE_RETRY_SECONDS;
  const mayRetry = response.status === 503 || response.status === 429;
  return new RequestError(
    message || t('app.status.refused', {status: response.status}),
    response.status,
    mayRetry ? Math.min(seconds, MAX_RETRY_SECONDS) : 0,
    code,
  );
}

/** Returns message and code of an error of ctllm (an object) or of Ollama (a string). */
export function readError(body: unknown): {readonly message: string; readonly code: string} {
  const error = isObject(body) ? body['error'] : undefined;
  if (typeof error === 'string') return {message: error, code: ''};
  if (!isObject(error)) return {message: '', code: ''};
  const {message, code} = error;
  return {message: typeof message === 'string' ? message : '', code: typeof code === 'string' ? code : ''};
}

export function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
