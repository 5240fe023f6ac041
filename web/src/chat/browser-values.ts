/** Small values that this browser keeps for a person: drafts, presets, the last model. */
import {user} from '../session/session';

type Place = 'tab' | 'browser';

/** Returns a stored value; null if there is none, or the browser forbids it. */
export function readValue(place: Place, name: string): string | null {
  try {
    return storageOf(place).getItem(keyOf(name));
  } catch {
    return null;
  }
}

/** Stores a value; '' removes it. Without a store, it lasts as long as the page. */
export function writeValue(place: Place, name: string, value: string): void {
  try {
    if (value) storageOf(place).setItem(keyOf(name), value);
    else storageOf(place).removeItem(keyOf(name));
  } catch {
    // The browser forbids it, or has no room.
  }
}

function storageOf(place: Place): Storage {
  return place === 'tab' ? sessionStorage : localStorage;
}

function keyOf(name: string): string {
  return `ctllm.${name}.${user.peek()?.id ?? ''}`;
}
