/** What a person prefers in this browser; it is stored here, and nowhere else. */
import {effect, signal} from '@preact/signals';
import {isObject} from '../api/http';
import {chooseLanguage, LANGUAGES, setLanguage, type Language} from '../i18n/i18n';

export const THEMES = ['system', 'light', 'dark'] as const;
export const TEXT_SIZES = ['small', 'normal', 'large', 'largest'] as const;
/** The key that sends a message; the other one of Enter and Ctrl+Enter begins a new line. */
export const SEND_KEYS = ['enter', 'ctrl-enter'] as const;
export const LANGUAGE_CHOICES = ['system', ...LANGUAGES] as const;

export interface Preferences {
  readonly language: 'system' | Language;
  readonly theme: (typeof THEMES)[number];
  readonly textSize: (typeof TEXT_SIZES)[number];
  readonly sendKey: (typeof SEND_KEYS)[number];
}

const DEFAULTS: Preferences = {language: 'system', theme: 'system', textSize: 'normal', sendKey: 'enter'};
/** public/theme.js reads this, too. */
const STORED_AS = 'ctllm.preferences';

/** Returns the preferences in a stored text; the default for each that is missing or unknown. */
export function parsePreferences(stored: string | null): Preferences {
  let values: unknown;
  try {
    values = JSON.parse(stored ?? '{}');
  } catch {
    values = {};
  }
  const pick = <T extends string>(name: keyof Preferences, known: readonly T[], fallback: T): T => {
    const value = isObject(values) ? values[name] : undefined;
    return known.find(each => each === value) ?? fallback;
  };
  return {
    language: pick('language', LANGUAGE_CHOICES, DEFAULTS.language),
    theme: pick('theme', THEMES, DEFAULTS.theme),
    textSize: pick('textSize', TEXT_SIZES, DEFAULTS.textSize),
    sendKey: pick('sendKey', SEND_KEYS, DEFAULTS.sendKey),
  };
}

export const preferences = signal<Preferences>(parsePreferences(readStored()));

export function setPreference<Name extends keyof Preferences>(name: Name, value: Preferences[Name]): void {
  preferences.value = {...preferences.value, [name]: value};
  try {
    localStorage.setItem(STORED_AS, JSON.stringify(preferences.value));
  } catch {
    // The browser forbids to store anything: the preference lasts as long as the page.
  }
}

/** Whether a key event is the one that sends a message. */
export function isSendKey(event: Pick<KeyboardEvent, 'key' | 'shiftKey' | 'ctrlKey' | 'metaKey' | 'isComposing'>): boolean {
  if (event.key !== 'Enter' || event.isComposing) return false;
  const hasModifier = event.ctrlKey || event.metaKey;
  return preferences.value.sendKey === 'enter' ? !event.shiftKey : hasModifier;
}

/** Applies the preferences now and whenever they change, also in another tab. Resolves when the texts are there. */
export async function applyPreferences(): Promise<void> {
  window.addEventListener('storage', ({key}) => {
    if (key === STORED_AS || key === null) preferences.value = parsePreferences(readStored());
  });
  let texts: Promise<void> = Promise.resolve();
  effect(() => {
    const {language, theme, textSize} = preferences.value;
    const {dataset} = document.documentElement;
    if (theme === 'system') delete dataset['theme'];
    else dataset['theme'] = theme;
    if (textSize === 'normal') delete dataset['textSize'];
    else dataset['textSize'] = textSize;
    const next = language === 'system' ? chooseLanguage(navigator.languages) : language;
    texts = texts.then(() => setLanguage(next)); // one after the other: the last one counts
  });
  await texts;
}

function readStored(): string | null {
  try {
    return localStorage.getItem(STORED_AS);
  } catch {
    return null;
  }
}
