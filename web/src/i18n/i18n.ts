/** The texts of the page in the languages that it has. Each section of the page has a file of texts. */
import {signal} from '@preact/signals';
import {en, type Texts} from './en';

export type TextKey = keyof Texts;
export type Language = 'en' | 'de';
export const LANGUAGES: readonly Language[] = ['en', 'de'];

export const language = signal<Language>('en');
const texts = signal<Texts>(en);

/** Returns the first of the preferred languages (BCP 47 tags) that the page has; English if none. */
export function chooseLanguage(preferred: readonly string[]): Language {
  for (const tag of preferred) {
    const found = LANGUAGES.find(each => tag.toLowerCase().split('-')[0] === each);
    if (found) return found;
  }
  return 'en';
}

/** Shows the page in another language, whose texts are loaded when they are needed. */
export async function setLanguage(next: Language): Promise<void> {
  texts.value = next === 'de' ? (await import('./de')).de : en;
  language.value = next;
  document.documentElement.lang = next;
}

/** Returns a text, with `{name}` replaced by the parameter of that name. */
export function t(key: TextKey, parameters: Readonly<Record<string, string | number>> = {}): string {
  return texts.value[key].replace(/\{(\w+)\}/g, (whole, name: string) => String(parameters[name] ?? whole));
}

/** Returns the text `key.one` or `key.other` for a number, which `{count}` in it stands for. */
export function plural(key: string, count: number): string {
  // As in CLDR for the languages of the page. A phone takes 50 ms to make Intl.PluralRules, and this is called while an answer arrives.
  const category = count === 1 ? 'one' : 'other';
  return t(`${key}.${category}` as TextKey, {count: formatCount(count)});
}

/** Below 1,000 nothing separates the digits in any language of the page: that needs no format, which takes long to make, too. */
function formatCount(count: number): string {
  return Number.isInteger(count) && Math.abs(count) < 1000 ? String(count) : new Intl.NumberFormat(language.value).format(count);
}
