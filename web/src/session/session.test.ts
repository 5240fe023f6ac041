import {afterEach, beforeEach, describe, expect, it, vi} from 'vitest';

type Session = typeof import('./session');
interface Answer {
  readonly status: number;
  readonly body: unknown;
}

const TOKEN = {user: {id: 'a', name: 'ada'}, token: 'secret-token', expires_in: 600};
const EXPIRED = {status: 401, body: {error: {code: 'unauthenticated', message: 'Expired.'}}};

let answers: Record<string, (() => Answer) | undefined>;
let requests: string[];
let session: Session;

beforeEach(async () => {
  vi.resetModules();
  localStorage.clear();
  sessionStorage.clear();
  requests = [];
  answers = {
    '/ctllm/page': () => ({status: 200, body: {role: 'cloud', version: '1'}}),
    '/ctllm/session/token': () => ({status: 200, body: TOKEN}),
  };
  vi.stubGlobal('fetch', (path: string) => {
    requests.push(path);
    const {status, body} = answers[path]?.() ?? {status: 200, body: {}};
    return Promise.resolve(new Response(JSON.stringify(body), {status}));
  });
  session = await import('./session');
});

afterEach(() => vi.unstubAllGlobals());

const countRenewals = (): number => requests.filter(path => path === '/ctllm/session/token').length;

describe('the session', () => {
  it('is renewed by one request, however many wait for it', async () => {
    await Promise.all([session.renewSession(), session.renewSession(), session.renewSession()]);
    expect(countRenewals()).toBe(1);
    expect(session.user.value).toEqual(TOKEN.user);
  });

  it('begins with the page, and whoever asks first takes that beginning', async () => {
    session.beginSession();
    await session.firstRenewal();
    expect(countRenewals()).toBe(1);
    await session.firstRenewal();
    expect(countRenewals()).toBe(2);
  });

  it('tells whoever takes the beginning that it failed', async () => {
    answers['/ctllm/session/token'] = () => EXPIRED;
    session.beginSession();
    await new Promise(resolve => setTimeout(resolve)); // it failed before anybody asked
    await expect(session.firstRenewal()).rejects.toMatchObject({status: 401});
    expect(countRenewals()).toBe(1);
  });

  it('is renewed once when the token was refused', async () => {
    await session.renewSession();
    let isRefused = true;
    answers['/api/tags'] = () => {
      const answer = isRefused ? EXPIRED : {status: 200, body: {models: []}};
      isRefused = false;
      return answer;
    };
    await expect(session.getJson('/api/tags')).resolves.toEqual({models: []});
    expect(countRenewals()).toBe(2);
  });

  it('ends with a reason when it cannot be renewed', async () => {
    await session.renewSession();
    answers['/api/tags'] = () => EXPIRED;
    answers['/ctllm/session/token'] = () => EXPIRED;
    await expect(session.getJson('/api/tags')).rejects.toMatchObject({status: 401});
    expect(session.user.value).toBeNull();
    expect(session.endReason.value).toBe('Your session has ended.');
    await expect(session.getJson('/api/tags')).rejects.toMatchObject({status: 401});
  });

  it('does not end when Ollama refuses', async () => {
    await session.renewSession();
    answers['/api/chat'] = () => ({status: 401, body: {error: 'unauthorized'}});
    await expect(session.authorizedRequest('POST', '/api/chat')).rejects.toMatchObject({status: 401, message: 'unauthorized'});
    expect(session.user.value).toEqual(TOKEN.user);
    expect(countRenewals()).toBe(1);
  });

  it('sends nothing of one person as another', async () => {
    await session.renewSession();
    answers['/api/chat'] = () => EXPIRED;
    answers['/ctllm/session/token'] = () => ({status: 200, body: {...TOKEN, user: {id: 'b', name: 'bob'}}});
    await expect(session.authorizedRequest('POST', '/api/chat')).rejects.toMatchObject({status: 409});
    expect(requests.filter(path => path === '/api/chat')).toHaveLength(1);
  });

  it('is void if it was forgotten while it was renewed', async () => {
    const renewal = session.renewSession();
    session.forgetToken('Over.');
    await expect(renewal).rejects.toMatchObject({status: 409});
    expect(session.user.value).toBeNull();
  });

  it('stores who is logged in, and never the token of a cloud', async () => {
    await session.renewSession();
    expect(localStorage.getItem('ctllm-user')).toContain('ada');
    expect(JSON.stringify({...localStorage, ...sessionStorage})).not.toContain(TOKEN.token);
    session.forgetToken();
    expect(localStorage.getItem('ctllm-user')).toBeNull();
  });

  it('of a desktop is that of the tab, and ends with the daemon', async () => {
    answers['/ctllm/page'] = () => ({status: 200, body: {role: 'desktop', version: '1'}});
    await expect(session.renewSession()).rejects.toMatchObject({status: 401});
    sessionStorage.setItem('ctllm-desktop-token', JSON.stringify(TOKEN));
    await session.renewSession();
    expect(session.user.value).toEqual(TOKEN.user);
    answers['/ctllm/desktops'] = () => EXPIRED;
    await expect(session.getJson('/ctllm/desktops')).rejects.toMatchObject({status: 401});
    expect(session.user.value).toBeNull();
    expect(sessionStorage.getItem('ctllm-desktop-token')).toBeNull();
    expect(countRenewals()).toBe(0);
  });

  it('of a desktop begins only if the desktop confirms it, and tells its former user why it ended', async () => {
    answers['/ctllm/page'] = () => ({status: 200, body: {role: 'desktop', version: '1'}});
    answers['/ctllm/session'] = () => ({status: 200, body: {user: {id: 'b', name: 'ada'}, scopes: [], expires_in: 60}});
    sessionStorage.setItem('ctllm-desktop-token', JSON.stringify(TOKEN));
    await session.renewSession();
    expect(session.user.value).toEqual({id: 'b', name: 'ada'});
    answers['/ctllm/session'] = () => ({status: 401, body: {error: {code: 'user_changed', message: 'Another user.'}}});
    answers['/ctllm/desktops'] = () => EXPIRED;
    await expect(session.getJson('/ctllm/desktops')).rejects.toMatchObject({code: 'user_changed'});
    expect([session.user.value, sessionStorage.getItem('ctllm-desktop-token')]).toEqual([null, null]);
    expect(session.endReason.value).toMatch(/^Another user has logged in on this desktop/);
  });

  it('of a desktop shows nothing of its former user after a reload', async () => {
    answers['/ctllm/page'] = () => ({status: 200, body: {role: 'desktop', version: '1'}});
    answers['/ctllm/session'] = () => ({status: 401, body: {error: {code: 'user_changed', message: 'Another user.'}}});
    sessionStorage.setItem('ctllm-desktop-token', JSON.stringify(TOKEN));
    await expect(session.renewSession()).rejects.toMatchObject({code: 'user_changed'});
    expect([session.user.value, session.isConfirmed.value]).toEqual([undefined, false]);
  });
});
