import {afterEach, beforeEach, describe, expect, it, vi} from 'vitest';
import {acceptToken, forgetToken} from '../session/session';
import {apiKeys, createApiKey, createdKey, keyRequest, readApiKeys, revokeApiKey, type ApiKey, type NewKey} from './api-keys';
import {describeKey} from './keys-section';
import {readForm} from './key-dialog';

const PLAIN: NewKey = {name: ' editor ', scopes: ['use'], models: [], expiresIn: null, requestsPerMinute: null, desktop: ''};
const KEY: ApiKey = {id: 'k1', name: 'editor', scopes: ['use'], models: [], requests_per_minute: null, expires_at: null, last_used: null};
const now = Date.UTC(2026, 10, 29);
let sent: {method: string | undefined; path: string; body: unknown}[];

beforeEach(() => {
  sent = [];
  vi.stubGlobal('fetch', async (path: string, init?: RequestInit) => {
    sent.push({method: init?.method, path, body: init?.body ? JSON.parse(String(init.body)) : null});
    if (init?.method === 'DELETE') return new Response(null, {status: 204});
    return new Response(JSON.stringify(init?.method === 'POST' ? {id: 'k1', key: 'ctllm-k1-secret'} : {keys: [KEY]}));
  });
  acceptToken({user: {id: 'u', name: 'alice'}, token: 'T', expires_in: 600}, Date.now());
});
afterEach(() => {
  forgetToken();
  vi.unstubAllGlobals();
});

describe('an API key', () => {
  it('is asked for with what was chosen only', () => {
    expect(keyRequest(PLAIN)).toEqual({name: 'editor', scopes: ['use']});
    expect(keyRequest({...PLAIN, models: ['a'], expiresIn: 60, requestsPerMinute: 5, desktop: 'd'}))
      .toEqual({name: 'editor', scopes: ['use'], models: ['a'], expires_in: 60, requests_per_minute: 5, desktop: 'd'});
  });

  it('is known until it is revoked, or another person logs in', async () => {
    await createApiKey(PLAIN);
    await readApiKeys();
    expect(createdKey.value).toEqual({id: 'k1', name: 'editor', key: 'ctllm-k1-secret'});
    await revokeApiKey('k1');
    expect(createdKey.value).toBeNull();
    expect(apiKeys.value).toEqual([]);
    await createApiKey(PLAIN);
    acceptToken({user: {id: 'v', name: 'bob'}, token: 'T', expires_in: 600}, Date.now());
    expect(createdKey.value).toBeNull();
    expect(apiKeys.value).toBeNull();
  });

  it('is revoked by its id, which is no path', async () => {
    await revokeApiKey('../session');
    expect(sent.at(-1)).toMatchObject({method: 'DELETE', path: '/ctllm/keys/..%2Fsession'});
  });

  it('is described in one line', () => {
    expect(describeKey(KEY, now)).toBe('may use models · does not expire · not used yet');
    const full: ApiKey = {...KEY, scopes: ['use', 'manage'], models: ['a', 'b*'], requests_per_minute: 30, expires_at: now / 1000 + 86_400 * 7};
    expect(describeKey(full, now)).toBe('may change models · only a, b* · 30 requests a minute · expires in 7 days · not used yet');
    expect(describeKey({...KEY, expires_at: now / 1000 - 1}, now)).toContain('has expired');
  });
});

describe('the form of an API key', () => {
  function fill(values: readonly (readonly [string, string])[]): FormData {
    const data = new FormData();
    for (const [name, value] of values) data.append(name, value);
    return data;
  }

  it('is read with its defaults', () => {
    expect(readForm(fill([['name', 'x'], ['scope', 'use'], ['which', 'all'], ['lifetime', 'never'], ['rate', '']]), 'd'))
      .toEqual({name: 'x', scopes: ['use'], models: [], expiresIn: null, requestsPerMinute: null, desktop: 'd'});
  });
  it('takes the models that are chosen only if there is a choice', () => {
    const values = [['scope', 'manage'], ['model', 'a'], ['model', 'b'], ['lifetime', 'week'], ['rate', '30']] as const;
    expect(readForm(fill([...values, ['which', 'some']]), '')).toMatchObject({scopes: ['use', 'manage'], models: ['a', 'b'], expiresIn: 604_800, requestsPerMinute: 30});
    expect(readForm(fill([...values, ['which', 'all']]), '').models).toEqual([]);
  });
  it('knows its own times only', () => expect(readForm(fill([['lifetime', 'constructor']]), '').expiresIn).toBeNull());
});
