/** The session of the person who uses the page. The access token is in memory only, but for that of a desktop. */
import {computed, signal} from '@preact/signals';
import {readJson, request, RequestError, withTimeout, type RequestOptions} from '../api/http';
import type {AccessToken, User} from '../api/types';
import {t} from '../i18n/i18n';
import {readRole} from './page-role';
import {recallUser, rememberUser} from './remembered-user';
import {storeToken, storedToken} from './stored-token';

interface Session {
  readonly token: string;
  /** Epoch milliseconds. */
  readonly renewAt: number;
}

/** Who is logged in; null if nobody is, undefined until that is known. Without a network, whoever was logged in last. */
export const user = signal<User | null | undefined>(undefined);
/** The id of who is logged in; '' if nobody is, or that is not known. */
export const userId = computed(() => user.value?.id ?? '');
export const isLoggedIn = computed(() => Boolean(user.value));
/** Whether the server has confirmed who is logged in. */
export const isConfirmed = signal(false);
/** Why nobody is logged in: a sentence, or ''. */
export const endReason = signal('');

let session: Session | null = null;
let renewal: Promise<void> | null = null;
/** The renewal that began with the page, until somebody takes it. */
let first: Promise<void> | null = null;
/** Changes when the token is forgotten: a renewal that began before is void. */
let epoch = 0;

/** Shows the page of the person who was logged in last, until the server says who is. */
export function assumeRememberedUser(): void {
  if (user.value === undefined) user.value = recallUser() ?? undefined;
}

/** Takes the access token of a response. */
export function acceptToken({user: newUser, token, expires_in: lifetime}: AccessToken, requestedAt: number): void {
  session = {token, renewAt: requestedAt + Math.max(lifetime - 60, lifetime / 2) * 1000};
  const {id, name} = newUser;
  if (user.value?.id !== id || user.value.name !== name) user.value = {id, name};
  rememberUser({id, name});
  endReason.value = '';
  isConfirmed.value = true;
}

/** Forgets the access token, but not whose page is shown. */
export function dropToken(): void {
  epoch += 1;
  session = null;
  renewal = null;
  isConfirmed.value = false;
}

/** Forgets the access token and the person; `reason` is a sentence for them. */
export function forgetToken(reason = ''): void {
  if (user.value === null && !session) {
    if (reason) endReason.value = reason;
    return;
  }
  dropToken();
  storeToken(null);
  rememberUser(null);
  endReason.value = reason;
  user.value = null;
}

/** Waits for the renewal in progress, if there is one. */
export async function finishRenewal(): Promise<void> {
  await renewal?.catch(() => undefined);
}

/** Renews the session with the cookie that scripts cannot read; at most one request at a time. */
export function renewSession(): Promise<void> {
  if (renewal) return renewal;
  const current = requestToken(epoch).finally(() => { if (renewal === current) renewal = null; });
  renewal = current;
  return current;
}

/** Begins the renewal that `firstRenewal` returns, while the page is still being set up: a phone waits for the network anyway. */
export function beginSession(): void {
  first = renewSession();
  first.catch(() => undefined); // whoever takes it is told
}

/** Returns the renewal that was begun with the page, to the first caller; a new one to the others. */
export function firstRenewal(): Promise<void> {
  const begun = first ?? renewSession();
  first = null;
  return begun;
}

async function requestToken(begun: number): Promise<void> {
  const requestedAt = Date.now();
  const token = (await readRole()) === 'desktop' ? await checkStoredToken() : await requestCloudToken();
  if (begun !== epoch) throw new RequestError(t('session.changed'), 409);
  if (!token) throw new RequestError(t('session.desktopEnded'), 401, 0, 'unauthenticated');
  acceptToken(token, requestedAt);
}

/** Returns the token of this tab, once the desktop has confirmed it: another user may have logged in there. */
async function checkStoredToken(): Promise<AccessToken | null> {
  const stored = storedToken();
  if (!stored) return null;
  const headers = {Authorization: `Bearer ${stored.token}`};
  const confirmed = await withTimeout({headers}, async options =>
    readJson<Pick<AccessToken, 'user' | 'expires_in'>>(await request('GET', '/ctllm/session', options)));
  return {...stored, ...confirmed};
}

async function requestCloudToken(): Promise<AccessToken> {
  return withTimeout({body: {}}, async options => readJson<AccessToken>(await request('POST', '/ctllm/session/token', options)));
}

/** Another tab may have logged in another user, who must not send what this user started. */
async function renewForSameUser(): Promise<void> {
  const before = user.value?.id;
  await renewSession();
  if (user.value?.id !== before) throw new RequestError(t('session.changed'), 409);
}

/** Returns why a session ended: a sentence for the person. */
export function describeEnd(error: RequestError): string {
  if (error.code === 'user_changed') return t('session.userChanged');
  if (error.code === 'user_disabled') return t('session.error.disabled');
  if (error.code === 'group_not_allowed' && user.value) return t('session.groupNotAllowed', {name: user.value.name});
  return error.status === 401 ? t('session.ended') : error.message;
}

/** Sends a request with the access token, which is renewed once if it has expired. Throws as `request`.
 *
 * Ends the session if the server does so. Ollama's own refusals, which have no code, do not.
 */
export async function authorizedRequest(method: string, path: string, options: RequestOptions = {}): Promise<Response> {
  const begun = epoch;
  try {
    return await sendAuthorized(method, path, options);
  } catch (error) {
    const isOurs = error instanceof RequestError && error.code !== '' && error.endsSession;
    if (isOurs && begun === epoch && user.value) forgetToken(describeEnd(error));
    throw error;
  }
}

async function sendAuthorized(method: string, path: string, options: RequestOptions): Promise<Response> {
  const send = (): Promise<Response> => {
    if (!session) throw new RequestError(t('session.loggedOut'), 401);
    return request(method, path, {...options, headers: {...options.headers, Authorization: `Bearer ${session.token}`}});
  };
  if (user.value && (!session || Date.now() >= session.renewAt)) await renewForSameUser();
  const used = session;
  try {
    return await send();
  } catch (error) {
    if (!(error instanceof RequestError) || error.status !== 401 || error.code === '' || !session) throw error;
    if (session === used) await renewForSameUser();
    return send();
  }
}

/** Returns the JSON of an authorized GET. */
export async function getJson<T>(path: string, options: RequestOptions = {}): Promise<T> {
  return withTimeout(options, async limited => readJson<T>(await authorizedRequest('GET', path, limited)));
}

/** The header that selects a desktop. */
export function desktopHeader(id: string): Readonly<Record<string, string>> {
  return {'Ctllm-Desktop': id};
}
