/** The access token of a desktop's own page. It ends with the daemon, and belongs to one tab.
 *
 * No cookie can have it: all ports of a machine share cookies. The token of a cloud is never stored.
 */
import {isObject} from '../api/http';
import type {AccessToken} from '../api/types';
import {isLoopback} from './page-role';

const KEY = 'ctllm-desktop-token';

/** Stores a token in this tab, or forgets the one that is stored. */
export function storeToken(token: AccessToken | null): void {
  try {
    if (token && isLoopback(location.hostname)) sessionStorage.setItem(KEY, JSON.stringify(token));
    else sessionStorage.removeItem(KEY);
  } catch {
    // A browser may forbid to store anything. Then a reload ends the session.
  }
}

export function storedToken(): AccessToken | null {
  try {
    const stored: unknown = JSON.parse(sessionStorage.getItem(KEY) ?? 'null');
    return isAccessToken(stored) ? stored : null;
  } catch {
    return null;
  }
}

function isAccessToken(value: unknown): value is AccessToken {
  if (!isObject(value) || !isObject(value['user'])) return false;
  const {user, token, expires_in: lifetime} = value;
  return typeof token === 'string' && typeof lifetime === 'number' && isObject(user)
    && typeof user['id'] === 'string' && typeof user['name'] === 'string';
}
