import {afterEach, beforeEach, describe, expect, it, vi} from 'vitest';
import {acceptToken, dropToken, forgetToken, user} from '../session/session';
import {bestDesktop, desktops, isOnDesktop, isProxyUnknown, nextTry, pageServer, problem, proxy, reachability, refreshStatus, watchStatus} from './status-store';

type Answer = () => Response;
const attic = {id: 'd1', name: 'attic', ollama: 'up', version: '0.12', models: ['llama3.2']};
const json = (body: unknown, init?: ResponseInit): Answer => () => new Response(JSON.stringify(body), init);
const unreachable: Answer = () => { throw new TypeError('no route'); };

let answers: Record<string, Answer>;
let asked: string[];
let stop = (): void => {};

beforeEach(() => {
  vi.useFakeTimers();
  asked = [];
  answers = {
    '/health': json({version: '1.2'}),
    '/ctllm/page': json({role: 'cloud', version: '1.2'}),
    '/ctllm/proxy': json({state: 'running', exchanges: 0}),
    '/ctllm/desktops': json({desktops: [attic]}),
  };
  vi.stubGlobal('fetch', async (path: string) => {
    asked.push(path);
    return (answers[path] ?? json({error: {message: 'No such path.'}}, {status: 404}))();
  });
});
afterEach(() => {
  stop();
  forgetToken();
  pageServer.value = null;
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

const logIn = (): void => acceptToken({user: {id: 'u', name: 'alice'}, token: 'T', expires_in: 600}, Date.now());

describe('the status', () => {
  it('without a login is that of the server only', async () => {
    await refreshStatus();
    expect(asked).toEqual(['/ctllm/page', '/health']); // the first one is asked once
    expect(reachability.value).toBe('ok');
    expect(desktops.value).toBeNull();
  });

  it('has proxy and desktops of who is logged in', async () => {
    logIn();
    await refreshStatus();
    expect(proxy.value?.state).toBe('running');
    expect(bestDesktop.value?.name).toBe('attic');
  });

  it('of a desktop has no proxy', async () => {
    answers['/ctllm/page'] = json({role: 'desktop', version: '1.2'});
    pageServer.value = {role: 'desktop', version: ''};
    delete answers['/health']; // it is a path of Ollama, which does not know it
    logIn();
    await refreshStatus();
    expect(isOnDesktop.value).toBe(true);
    await refreshStatus();
    expect(asked).toEqual(['/ctllm/page', '/ctllm/desktops', '/ctllm/page', '/ctllm/desktops']);
  });

  it('keeps the same list while nothing changes, so that nothing is rendered again', async () => {
    logIn();
    await refreshStatus();
    const before = desktops.value;
    await refreshStatus();
    expect(desktops.value).toBe(before);
  });

  it('is polled every four seconds', async () => {
    logIn();
    stop = watchStatus();
    await vi.advanceTimersByTimeAsync(0);
    const first = asked.length;
    await vi.advanceTimersByTimeAsync(3_900);
    expect(asked).toHaveLength(first);
    await vi.advanceTimersByTimeAsync(200);
    expect(asked.length).toBeGreaterThan(first);
  });

  it('is polled less often while the server cannot be reached, and at once when the network is back', async () => {
    logIn();
    answers['/health'] = unreachable;
    stop = watchStatus();
    await vi.advanceTimersByTimeAsync(60_000);
    expect(reachability.value).toBe('unreachable');
    expect(asked.length).toBeLessThan(8);
    expect(problem.value?.message).toContain('cannot be reached');
    answers['/health'] = json({version: '1.2'});
    dispatchEvent(new Event('online'));
    await vi.advanceTimersByTimeAsync(0);
    expect(reachability.value).toBe('ok');
    expect(problem.value).toBeNull();
    expect(bestDesktop.value?.name).toBe('attic');
  });

  it('honours Retry-After', async () => {
    logIn();
    answers['/ctllm/proxy'] = json({error: {message: 'Busy.'}}, {status: 503, headers: {'Retry-After': '60'}});
    stop = watchStatus();
    await vi.advanceTimersByTimeAsync(0);
    expect(isProxyUnknown.value).toBe(true);
    expect(nextTry.value).toBe(Date.now() + 60_000);
    const before = asked.length;
    await vi.advanceTimersByTimeAsync(59_000);
    expect(asked).toHaveLength(before);
    await vi.advanceTimersByTimeAsync(1_000);
    expect(asked.length).toBeGreaterThan(before);
  });

  it('forgets the account when the session ends', async () => {
    logIn();
    stop = watchStatus();
    await vi.advanceTimersByTimeAsync(0);
    forgetToken();
    await vi.advanceTimersByTimeAsync(0);
    expect(desktops.value).toBeNull();
    expect(proxy.value).toBeNull();
  });

  const logInAsBob = (): void => {
    dropToken();
    acceptToken({user: {id: 'b', name: 'bob'}, token: 'B', expires_in: 600}, Date.now());
  };

  it('shows nobody the desktops of somebody else, who was logged in when they were asked for', async () => {
    logIn();
    answers['/ctllm/desktops'] = () => {
      logInAsBob();
      return json({desktops: [attic]})();
    };
    await refreshStatus();
    expect([desktops.value, proxy.value]).toEqual([null, null]);
  });

  it('forgets the desktops of one person when another one logs in', async () => {
    logIn();
    stop = watchStatus();
    await vi.advanceTimersByTimeAsync(0);
    expect(desktops.value).not.toBeNull();
    logInAsBob();
    expect([desktops.value, proxy.value]).toEqual([null, null]);
  });

  it('logs nobody out because somebody else was refused', async () => {
    logIn();
    answers['/ctllm/desktops'] = () => {
      logInAsBob();
      return json({error: {code: 'unauthenticated', message: 'Expired.'}}, {status: 401})();
    };
    await refreshStatus();
    expect(user.value?.name).toBe('bob');
  });

  it('survives a response that breaks off', async () => {
    answers['/health'] = () => new Response('{"version": "1');
    await refreshStatus();
    expect(reachability.value).toBe('unreachable');
    expect(problem.value?.message).toContain('cannot be reached');
  });

  it('rests while the page is hidden', async () => {
    const hidden = vi.spyOn(document, 'hidden', 'get').mockReturnValue(false);
    stop = watchStatus();
    await vi.advanceTimersByTimeAsync(0);
    hidden.mockReturnValue(true);
    document.dispatchEvent(new Event('visibilitychange'));
    const before = asked.length;
    await vi.advanceTimersByTimeAsync(600_000);
    expect(asked).toHaveLength(before);
    hidden.mockReturnValue(false);
    document.dispatchEvent(new Event('visibilitychange'));
    await vi.advanceTimersByTimeAsync(0);
    expect(asked.length).toBeGreaterThan(before);
    hidden.mockRestore();
  });
});
