import {describe, expect, it} from 'vitest';
import {readParameter, removeParameter, takeParameter} from './fragment';
import {asksForPassword, describeLoginError} from './login-errors';
import {isLoopback} from './page-role';

describe('a fragment', () => {
  it('has parameters', () => {
    expect(readParameter('#invite=x&view=settings', 'invite')).toBe('x');
    expect(readParameter('', 'invite')).toBeNull();
  });
  it('keeps the others when one is removed', () => expect(removeParameter('#invite=x&view=settings', 'invite')).toBe('#view=settings'));
  it('gives its secret away once', () => {
    location.hash = '#invite=secret';
    expect(takeParameter('invite')).toBe('secret');
    expect(location.href).not.toContain('secret');
    expect(takeParameter('invite')).toBeNull();
  });
});

describe('a login error', () => {
  it.each(['__proto__', 'constructor', '<img>', ''])('that is unknown has failed: %s', word => {
    expect(describeLoginError(word)).toBe('session.error.failed');
  });
  it('says whether the password is asked for', () => {
    expect(asksForPassword('revoked')).toBe(true);
    expect(asksForPassword('denied')).toBe(false);
  });
});

it.each([
  ['localhost', true], ['127.0.0.1', true], ['127.1.2.3', true], ['[::1]', true],
  ['127.0.0.1.example.org', false], ['ctllm.example.org', false], ['localhost.example.org', false],
] as const)('a desktop may serve %s: %s', (host, may) => expect(isLoopback(host)).toBe(may));
