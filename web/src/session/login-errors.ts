/** How a sign-in with a provider may end: the cloud appends one of these words to its redirect. */
import type {TextKey} from '../i18n/i18n';

const TEXTS = {
  denied: 'session.error.denied',
  expired: 'session.error.expired',
  failed: 'session.error.failed',
  not_allowed: 'session.error.notAllowed',
  disabled: 'session.error.disabled',
  revoked: 'session.error.revoked',
  limited: 'session.error.limited',
  unknown: 'session.error.unknown',
  unavailable: 'session.error.unavailable',
} as const satisfies Record<string, TextKey>;

/** Returns the key of the sentence about a word; any word that is unknown has failed. */
export function describeLoginError(word: string): TextKey {
  return Object.hasOwn(TEXTS, word) ? TEXTS[word as keyof typeof TEXTS] : TEXTS.failed;
}

/** Whether the provider should ask for the password again, perhaps for another account. */
export function asksForPassword(word: string): boolean {
  return ['revoked', 'not_allowed', 'disabled'].includes(word);
}
