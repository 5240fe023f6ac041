import {afterEach, describe, expect, it} from 'vitest';
import {language} from '../i18n/i18n';
import {until} from '../testing';
import {applyPreferences, isSendKey, parsePreferences, preferences, setPreference} from './preferences';

const DEFAULTS = {language: 'system', theme: 'system', textSize: 'normal', sendKey: 'enter'};
const enter = {key: 'Enter', shiftKey: false, ctrlKey: false, metaKey: false, isComposing: false};

afterEach(() => {
  preferences.value = parsePreferences(null);
  localStorage.clear();
});

describe('stored preferences', () => {
  it('are the defaults without any', () => expect(parsePreferences(null)).toEqual(DEFAULTS));
  it.each(['', '[]', '"x"', 'null', '{"theme":7,"language":"fr","textSize":{},"sendKey":"__proto__"}', '{'])('that cannot be are ignored: %s', stored => {
    expect(parsePreferences(stored)).toEqual(DEFAULTS);
  });
  it('are read as they were written', () => {
    setPreference('theme', 'dark');
    setPreference('sendKey', 'ctrl-enter');
    expect(parsePreferences(localStorage.getItem('ctllm.preferences'))).toEqual({...DEFAULTS, theme: 'dark', sendKey: 'ctrl-enter'});
  });
});

describe('preferences', () => {
  it('are applied to the document at once', async () => {
    await applyPreferences();
    setPreference('theme', 'dark');
    setPreference('textSize', 'large');
    expect(document.documentElement.dataset).toMatchObject({theme: 'dark', textSize: 'large'});
    setPreference('theme', 'system');
    setPreference('textSize', 'normal');
    expect(Object.keys(document.documentElement.dataset)).toEqual([]);
    setPreference('language', 'de');
    await until(() => expect(language.value).toBe('de'));
    setPreference('language', 'en');
    await until(() => expect(language.value).toBe('en'));
  });

  it('say which key sends a message', () => {
    expect(isSendKey(enter)).toBe(true);
    expect(isSendKey({...enter, shiftKey: true})).toBe(false);
    expect(isSendKey({...enter, isComposing: true})).toBe(false);
    expect(isSendKey({...enter, key: 'a'})).toBe(false);
    setPreference('sendKey', 'ctrl-enter');
    expect(isSendKey(enter)).toBe(false);
    expect(isSendKey({...enter, ctrlKey: true})).toBe(true);
    expect(isSendKey({...enter, metaKey: true})).toBe(true);
  });
});
