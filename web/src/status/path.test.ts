import {afterEach, describe, expect, it} from 'vitest';
import {RequestError} from '../api/http';
import type {Desktop} from '../api/types';
import {setLanguage} from '../i18n/i18n';
import {describePath, findWorst, type Connection} from './path';

const attic: Desktop = {id: 'd1', name: 'attic', ollama: 'up', version: '0.12', models: [], latency_ms: 7};
const WELL: Connection = {
  isOnline: true,
  reachability: 'ok',
  server: {role: 'cloud', version: '1.2'},
  latency: 12,
  isLoggedIn: true,
  proxy: {state: 'running', exchanges: 0},
  isProxyUnknown: false,
  desktops: [attic],
  problem: null,
};

function states(connection: Partial<Connection>): string {
  return describePath({...WELL, ...connection}).nodes.map(({name, state, detail}) => `${name} ${state} ${detail}`.trim()).join(', ');
}

describe('the path', () => {
  afterEach(() => setLanguage('en'));

  it('has a state, a detail and the latency of each node', () => {
    expect(states({})).toBe('browser ok this page, cloud ok ctllm 1.2, proxy ok running, desktop ok attic, ollama ok version 0.12');
    expect(describePath(WELL).nodes.map(({latency}) => latency)).toEqual([null, 12, null, 7, null]);
    expect(describePath(WELL).hint).toBe('');
  });

  it('has no cloud and no proxy when a desktop serves the page', () => {
    expect(states({server: {role: 'desktop', version: '1.2'}, proxy: null})).toBe('browser ok this page, desktop ok attic, ollama ok version 0.12');
    expect(states({server: {role: 'desktop', version: '1.2'}, isLoggedIn: false, desktops: null}))
      .toBe('browser ok this page, desktop ok ctllm 1.2, ollama unknown');
  });

  it.each([
    ['no network', {isOnline: false, reachability: 'unreachable'}, 'browser off no network, cloud off cannot be reached, proxy unknown, desktop unknown, ollama unknown'],
    ['a cloud without a store', {reachability: 'failing'}, 'browser ok this page, cloud off not working, proxy unknown, desktop unknown, ollama unknown'],
    ['nobody logged in', {isLoggedIn: false, proxy: null, desktops: null}, 'browser ok this page, cloud ok ctllm 1.2, proxy unknown, desktop unknown, ollama unknown'],
    ['a proxy that starts', {proxy: {state: 'starting', exchanges: 0}}, 'browser ok this page, cloud ok ctllm 1.2, proxy waiting starting, desktop unknown, ollama unknown'],
    ['a proxy that failed', {proxy: {state: 'failed', exchanges: 0}}, 'browser ok this page, cloud ok ctllm 1.2, proxy off did not start, desktop unknown, ollama unknown'],
    ['a busy proxy', {proxy: {state: 'running', exchanges: 2}}, 'browser ok this page, cloud ok ctllm 1.2, proxy ok 2 requests in progress, desktop ok attic, ollama ok version 0.12'],
    ['a state that is not available', {proxy: null, isProxyUnknown: true}, 'browser ok this page, cloud ok ctllm 1.2, proxy off state not available, desktop unknown, ollama unknown'],
    ['no desktop', {desktops: []}, 'browser ok this page, cloud ok ctllm 1.2, proxy ok running, desktop off not connected, ollama unknown'],
    ['Ollama down', {desktops: [{...attic, ollama: 'down'}]}, 'browser ok this page, cloud ok ctllm 1.2, proxy ok running, desktop ok attic, ollama off not running'],
    ['the demo model', {desktops: [{...attic, ollama: 'demo'}]}, 'browser ok this page, cloud ok ctllm 1.2, proxy ok running, desktop ok attic, ollama demo demo model'],
    ['three desktops', {desktops: [{...attic, ollama: 'down', name: 'cellar'}, attic, attic]}, 'browser ok this page, cloud ok ctllm 1.2, proxy ok running, desktop ok attic and 2 more, ollama ok version 0.12'],
  ] as const)('with %s', (_, connection: Partial<Connection>, expected) => expect(states(connection)).toBe(expected));

  it.each([
    [{desktops: []}, 'ctllm login'],
    [{desktops: [{...attic, ollama: 'down'}]}, 'Ollama is not running on attic'],
    [{isLoggedIn: false}, 'Log in'],
    [{proxy: {state: 'absent', exchanges: 0}}, 'starts when you send'],
    [{proxy: {state: 'failed', exchanges: 0, error: 'It ran out of luck.'}}, 'out of luck'],
    [{problem: new RequestError('The server cannot be reached.')}, 'cannot be reached'],
  ] as const)('hints at what to do: %#', (connection: Partial<Connection>, words) => {
    expect(describePath({...WELL, ...connection}).hint).toContain(words);
  });

  it('is described in German, too', async () => {
    await setLanguage('de');
    expect(states({desktops: []})).toContain('desktop off nicht verbunden');
  });

  it('is summarized by its worst node', () => {
    expect(findWorst(describePath({...WELL, desktops: []}).nodes)?.name).toBe('desktop');
    expect(findWorst(describePath({...WELL, desktops: [{...attic, ollama: 'demo'}]}).nodes)?.name).toBe('ollama');
    expect(findWorst(describePath(WELL).nodes)?.state).toBe('ok');
  });
});
