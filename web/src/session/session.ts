/** The session of the person who uses the page. The access token is in memory only. */
import {computed, signal} from '@preact/signals';
import {request, RequestError, type RequestOptions} from '../api/http';
import type {AccessToken, User} from '../api/types';

interface Session {
  readonly token: string;
  /** Epoch milliseconds. */
  readonly renewAt: number;
}

/** Who is logged in; null if nobody is, undefined until that is known. */
export const user = signal<User | null | undefined>(undefined);
export const isLoggedIn = computed(() => Boolean(user.value));

let session: Session | null = null;
let renewal: Promise<void> | null = null;

/** Takes the access token of a response. */
export function acceptToken({user: newUser, token, expires_in: lifetime}: AccessToken, requestedAt: number): void {
  session = {token, renewAt: requestedAt + Math.max(lifetime - 60, lifetime / 2) * 1000};
  if (user.value?.id !== newUser.id || user.value.name !== newUser.name) user.value = newUser;
}

/** Forgets the access token. */
export function forgetToken(): void {
  session = null;
  user.value = null;
}

/** Renews the session with the cookie that scripts cannot read; at most one request at a time. */
export function renewSession(): Promise<void> {
  renewal ??= requestToken().finally(() => { renewal = null; });
  return renewal;
}

async function requestToken(): Promise<void> {
  const requestedAt = Date.now();
  const response = await request('POST', '/ctllm/session/token', {body: {}});
  acceptToken((await response.json()) as AccessToken, requestedAt);
}

async function renewForSameUser(): Promise<void> {
  const before = user.value?.id;
  await renewSession();
  if (user.value?.id !== before) throw new RequestError('Another user has logged in.', 409);
}

/** Sends a request with the access token, which is renewed once if it has expired. Throws as `request`. */
export async function authorizedRequest(method: string, path: string, options: RequestOptions = {}): Promise<Response> {
  const send = (): Promise<Response> => {
    if (!session) throw new RequestError('You are logged out.', 401);
    return request(method, path, {...options, headers: {...options.headers, Authorization: `Bearer ${session.token}`}});
  };
  if (session && Date.now() >= session.renewAt) await renewForSameUser();
  try {
    return await send();
  } catch (error) {
    if (!(error instanceof RequestError) || error.status !== 401 || !session) throw error;
    await renewForSameUser();
    return send();
  }
}

/** Returns the JSON of an authorized GET. */
export async function getJson<T>(path: string, options: RequestOptions = {}): Promise<T> {
  return (await (await authorizedRequest('GET', path, options)).json()) as T;
}

/** The header that selects a desktop. */
export function desktopHeader(id: string): Readonly<Record<string, string>> {
  return {'Ctllm-Desktop': id};
}
