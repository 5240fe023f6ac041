/** Who was logged in last in this browser: without a network, it is their conversations that can be read. */
import {isObject} from '../api/http';
import type {User} from '../api/types';

const KEY = 'ctllm-user';

/** Remembers a person, or nobody. A browser may forbid to store anything. */
export function rememberUser(user: User | null): void {
  try {
    if (user) localStorage.setItem(KEY, JSON.stringify(user));
    else localStorage.removeItem(KEY);
  } catch {
    // Then nothing can be read without a network.
  }
}

export function recallUser(): User | null {
  try {
    const stored: unknown = JSON.parse(localStorage.getItem(KEY) ?? 'null');
    if (!isObject(stored)) return null;
    const {id, name} = stored;
    return typeof id === 'string' && typeof name === 'string' ? {id, name} : null;
  } catch {
    return null;
  }
}
