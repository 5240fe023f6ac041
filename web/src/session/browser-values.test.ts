import {afterEach, beforeEach, expect, it, vi} from 'vitest';
import {readValue, writeValue} from './browser-values';
import {acceptToken, forgetToken} from './session';

const logIn = (id: string): void => acceptToken({user: {id, name: id}, token: 'T', expires_in: 600}, Date.now());

beforeEach(() => logIn('alice'));
afterEach(() => {
  vi.restoreAllMocks();
  for (const id of ['alice', 'bob']) {
    logIn(id);
    writeValue('tab', 'draft.', '');
  }
  forgetToken();
});

const refuse = (name: 'QuotaExceededError' | 'SecurityError'): void => {
  const fail = (): never => { throw new DOMException('', name); };
  vi.spyOn(Storage.prototype, 'setItem').mockImplementation(fail);
  if (name === 'SecurityError') vi.spyOn(Storage.prototype, 'getItem').mockImplementation(fail);
};

it('reads a value as it was written, until it is removed', () => {
  writeValue('tab', 'draft.', 'Hello');
  expect(readValue('tab', 'draft.')).toBe('Hello');
  expect(readValue('browser', 'draft.')).toBeNull();
  writeValue('tab', 'draft.', '');
  expect(readValue('tab', 'draft.')).toBeNull();
});

it.each(['QuotaExceededError', 'SecurityError'] as const)('keeps a value while the page lasts if the browser stores none: %s', name => {
  writeValue('tab', 'draft.', 'Stored');
  refuse(name);
  writeValue('tab', 'draft.', 'Newer');
  expect(readValue('tab', 'draft.')).toBe('Newer');
  expect(readValue('browser', 'draft.')).toBeNull();
  writeValue('tab', 'draft.', '');
  expect(readValue('tab', 'draft.')).toBeNull();
});

it('shows nobody what somebody else wrote', () => {
  refuse('SecurityError');
  writeValue('tab', 'draft.', 'Secret');
  logIn('bob');
  expect(readValue('tab', 'draft.')).toBeNull();
  logIn('alice');
  expect(readValue('tab', 'draft.')).toBe('Secret');
});
