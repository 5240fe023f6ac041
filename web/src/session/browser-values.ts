/** Small values that this browser keeps for a person: drafts, presets, the last model. */
import {user} from './session';

type Place = 'tab' | 'browser';

/** What the browser does not store, because it forbids that or has no room. */
const unstored = new Map<string, string>();

/** Returns a stored value; null if there is none. */
export function readValue(place: Place, name: string): string | null {
  const key = keyOf(name);
  const kept = unstored.get(`${place} ${key}`);
  if (kept !== undefined) return kept;
  try {
    return storageOf(place).getItem(key);
  } catch {
    return null;
  }
}

/** Stores a value; '' removes it. Without a store, it lasts as long as the page. */
export function writeValue(place: Place, name: string, value: string): void {
  const key = keyOf(name);
  unstored.delete(`${place} ${key}`);
  try {
    if (value) storageOf(place).setItem(key, value);
    else storageOf(place).removeItem(key);
  } catch {
    if (value) unstored.set(`${place} ${key}`, value);
  }
}

function storageOf(place: Place): Storage {
  return place === 'tab' ? sessionStorage : localStorage;
}

function keyOf(name: string): string {
  return `ctllm.${name}.${user.peek()?.id ?? ''}`;
}
