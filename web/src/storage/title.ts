/** Titles of conversations as they may be shown: who pasted the words may not know what is hidden in them. */
import {t} from '../i18n/i18n';
import {visibleText} from '../markdown/visible-text';

export function shownTitle(title: string): string {
  return visibleText(title) || t('storage.untitled');
}

/** Returns a title for a sentence, whose other words keep their places: it is isolated. */
export function titleInSentence(title: string): string {
  return `\u2068${shownTitle(title)}\u2069`;
}
