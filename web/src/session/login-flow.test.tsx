import {act} from 'preact/test-utils';
import {afterEach, beforeEach, describe, expect, it, vi} from 'vitest';
import {answerRequests, button, NEVER, show, until} from '../ui/testing';
import {t} from '../i18n/i18n';
import {navigate, route} from '../app/router';
import {askToConfirm, Confirmation} from '../ui/confirmation';
import {showToast, Toasts} from '../ui/toast';
import {LoginDialog} from './login-dialog';
import {startProblem, startSession, watchSession} from './login-flow';
import {leaveLoginQuestion, loginQuestion} from './login-question';
import {acceptToken, forgetToken, user} from './session';

const INTROSPECTION = 'POST /ctllm/session/introspect';
const ALICE = {id: 'a', name: 'alice'};
const refusal = (): Response => new Response('{"error": {"message": "You are not logged in.", "code": "unauthenticated"}}', {status: 401});

let answers: Record<string, unknown>;
let stop: () => void;

let timeouts: AbortController[];
/** Ends the time of every request that is not answered. */
const passTimeouts = (): void => {
  for (const each of timeouts.splice(0)) each.abort(new DOMException('', 'TimeoutError'));
};

beforeEach(async () => {
  timeouts = [];
  vi.spyOn(AbortSignal, 'timeout').mockImplementation(() => {
    const controller = new AbortController();
    timeouts.push(controller);
    return controller.signal;
  });
  answers = {'GET /ctllm/page': {role: 'cloud'}, 'POST /ctllm/session/token': refusal(), [INTROSPECTION]: {user: ALICE}};
  answerRequests(answers);
  stop = watchSession();
  await show(<LoginDialog />);
});
afterEach(async () => {
  await act(() => leaveLoginQuestion());
  stop();
  await show(null);
  startProblem.value = null;
  user.value = undefined;
  forgetToken();
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
});

/** Opens the link of an invite, as `ctllm invite alice` prints it. */
const openInvite = (): void => { location.hash = '#invite=secret'; };
const isAsked = (): void => void button(t('session.login.confirm', {name: 'alice'}));

describe('a link that logs somebody in', () => {
  // The page learns only once who serves it: that case is first.
  it.each(['GET /ctllm/page', 'POST /ctllm/session/token', INTROSPECTION])('asks them even if the server never answered %s at first', async request => {
    const answer = answers[request];
    answers[request] = NEVER;
    openInvite();
    await until(() => expect(timeouts).not.toEqual([]));
    await until(() => {
      passTimeouts();
      expect(startProblem.value).not.toBeNull();
    });
    answers[request] = answer;
    expect(loginQuestion.value).toBeNull();
    void startSession();
    await until(isAsked);
  });

  it('asks them after a start that failed for a reason nobody thought of', async () => {
    vi.spyOn(history, 'replaceState').mockImplementationOnce(() => { throw new DOMException('', 'SecurityError'); });
    openInvite();
    await expect(startSession()).rejects.toThrow(DOMException);
    void startSession();
    await until(isAsked);
  });
});

describe('when another person logs in', () => {
  const logIn = (id: string): void => acceptToken({user: {id, name: id}, token: 'T', expires_in: 600}, Date.now());

  it('nothing is said to them that was meant for the one before, nor asked', async () => {
    logIn('alice');
    await show(<><Toasts /><Confirmation /></>);
    let isConfirmed: boolean | null = null;
    await act(() => {
      showToast('Secret');
      void askToConfirm({title: 'Delete “Secret”?', text: '', action: 'Delete'}).then(answer => { isConfirmed = answer; });
    });
    expect(document.body.textContent).toContain('Secret');
    await act(() => logIn('bob'));
    expect([document.body.textContent, isConfirmed]).toEqual(['', false]);
  });

  it('they begin with a new chat, and whoever comes back stays where they were', async () => {
    const id = 'a'.repeat(32);
    logIn('alice');
    navigate('chat', id);
    forgetToken('Ended.');
    logIn('alice');
    expect(route.value.id).toBe(id);
    forgetToken();
    logIn('bob');
    expect([route.value, location.hash]).toEqual([{view: 'chat', id: ''}, '']);
  });

  it('the tabs of a desktop ask it whose they are', async () => {
    vi.resetModules();
    const flow = await import('./login-flow');
    const session = await import('./session');
    answers['GET /ctllm/page'] = {role: 'desktop'};
    answers['GET /ctllm/session'] = {user: {id: 'local', name: 'me'}, expires_in: 600};
    const token = JSON.stringify({user: {id: 'local', name: 'me'}, token: 'T', expires_in: 600});
    sessionStorage.setItem('ctllm-desktop-token', token);
    const stopWatching = flow.watchSession();
    await flow.startSession();
    expect(session.user.value?.id).toBe('local');
    const other = new BroadcastChannel('ctllm');
    other.postMessage(null); // logged out there: this tab has a session of its own
    other.postMessage('local');
    answers['GET /ctllm/session'] = new Response('{"error": {"message": "Another user.", "code": "user_changed"}}', {status: 401});
    other.postMessage('local-b');
    await until(() => expect(session.user.value).toBeNull());
    expect(session.endReason.value).toBe(t('session.userChanged'));
    other.close();
    stopWatching();
  });
});
