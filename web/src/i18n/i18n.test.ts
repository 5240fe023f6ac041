import {describe, expect, it} from 'vitest';
import {de} from './de';
import {en} from './en';
import {chooseLanguage, LANGUAGES, plural, setLanguage, t} from './i18n';

describe('the texts', () => {
  it('have the same parameters in every language', () => {
    const parameters = (text: string): readonly string[] => [...text.matchAll(/\{\w+\}/g)].map(([found]) => found).sort();
    for (const key of Object.keys(en) as (keyof typeof en)[]) expect(parameters(de[key]), key).toEqual(parameters(en[key]));
  });

  it('are shown in the language that is set', async () => {
    expect(t('app.settings')).toBe('Settings');
    await setLanguage('de');
    expect(t('app.settings')).toBe('Einstellungen');
    expect(document.documentElement.lang).toBe('de');
    await setLanguage('en');
  });
});

describe('a text with a number', () => {
  it.each(LANGUAGES)('has the form and the digits of its language: %s', async language => {
    await setLanguage(language);
    for (const count of [0, 1, 2, 11, 21, 101, 999, 1000, 1234567, 1.5]) {
      const form = new Intl.PluralRules(language).select(count) === 'one' ? 'chat.tokens.one' : 'chat.tokens.other';
      expect(plural('chat.tokens', count)).toBe(t(form, {count: new Intl.NumberFormat(language).format(count)}));
    }
    await setLanguage('en');
  });
});

describe('the chosen language', () => {
  it('is the first that the page has', () => expect(chooseLanguage(['fr-FR', 'de-AT', 'en'])).toBe('de'));
  it('is English without any', () => expect(chooseLanguage(['fr'])).toBe('en'));
});
