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

/** Stores a value; '' removes it. Without a store, it lasts as long as the page. Returns whether it lasts longer. */
export function writeValue(place: Place, name: string, value: string): boolean {
  const key = keyOf(name);
  unstored.delete(`${place} ${key}`);
  try {
    if (value) storageOf(place).setItem(key, value);
    else storageOf(place).removeItem(key);
    return true;
  } catch {
    if (value) unstored.set(`${place} ${key}`, value);
    return !value;
  }
}

/** Removes the values of a person whose names `isMeant` accepts. */
export function removeValues(place: Place, person: string, isMeantName: (name: string) => boolean): void {
  const [before, after] = ['ctllm.', `.${person}`];
  const isMeant = (key: string): boolean => key.startsWith(before) && key.endsWith(after) && isMeantName(key.slice(before.length, -after.length));
  for (const key of unstored.keys()) if (key.startsWith(`${place} `) && isMeant(key.slice(place.length + 1))) unstored.delete(key);
  try {
    for (const key of Object.keys(storageOf(place)).filter(isMeant)) storageOf(place).removeItem(key);
  } catch {
    // A browser that forbids to read them has none.
  }
}

function storageOf(place: Place): Storage {
  return place === 'tab' ? sessionStorage : localStorage;
}

/** Returns the key under which a value of the person is stored. */
export function keyOf(name: string): string {
  return `ctllm.${name}.${user.peek()?.id ?? ''}`;
}
