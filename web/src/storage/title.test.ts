import {expect, it} from 'vitest';
import {t} from '../i18n/i18n';
import {shownTitle, titleInSentence} from './title';

it('leaves the words around it where they are', () => {
  expect(titleInSentence('\u202eHello')).toBe('\u2068⟨U+202E⟩Hello\u2069');
  expect([shownTitle('Hello'), shownTitle('')]).toEqual(['Hello', t('storage.untitled')]);
});
