import 'fake-indexeddb/auto';
import {act} from 'preact/test-utils';
import {afterEach, beforeEach, describe, expect, it, vi} from 'vitest';
import {answerRequests, find, settle, show, until} from '../ui/testing';
import {startProblem} from '../session/login-flow';
import {acceptToken, dropToken, forgetToken, user} from '../session/session';
import {CurrentView} from './current-view';
import {navigate, type View} from './router';

const logIn = (id: string): void => acceptToken({user: {id, name: id}, token: 'T', expires_in: 600}, Date.now());
const isShown = (selector: string): boolean => document.querySelector(selector) !== null;
/** Shows a view, and waits until it is loaded. */
async function open(view: View): Promise<void> {
  await act(() => navigate(view));
  await settle();
}

beforeEach(async () => {
  vi.stubGlobal('CSS', {supports: () => true});
  vi.stubGlobal('scrollTo', () => {});
  answerRequests({'GET /ctllm/page': {role: 'cloud'}, 'GET /health': {version: '1'}});
  logIn('alice');
  await show(<CurrentView />);
});
afterEach(async () => {
  await show(null);
  startProblem.value = null;
  forgetToken();
  navigate('chat');
  sessionStorage.clear();
  vi.unstubAllGlobals();
});

describe('while it is not known who is logged in', () => {
  beforeEach(async () => {
    await act(() => { dropToken(); user.value = undefined; });
  });

  it('shows nothing, or why that is so', async () => {
    expect(document.body.textContent).toBe('');
    await act(() => { startProblem.value = {message: 'The cloud is away.', retryAt: Date.now() + 4_000}; });
    expect(find('#cannot-start').textContent).toContain('The cloud is away.');
  });
});

describe('while nobody is logged in', () => {
  beforeEach(() => act(() => forgetToken()));

  it.each(['chat', 'models', 'settings', 'setup'] as const)('shows how to log in, in place of the view %s', async view => {
    await open(view);
    expect(isShown('#logged-out')).toBe(true);
  });

  it.each([['privacy', '#privacy'], ['status', '#status-view']] as const)('shows the view %s all the same', async (view, selector) => {
    await open(view);
    await until(() => expect(isShown(selector)).toBe(true));
    expect(isShown('#logged-out')).toBe(false);
  });
});

describe('while somebody is logged in', () => {
  it('shows the chat, and other views in its place', async () => {
    expect([isShown('#chat'), find('h1').textContent]).toEqual([true, 'New chat']);
    await open('models');
    await until(() => expect(isShown('#models-view')).toBe(true));
    expect(isShown('#chat')).toBe(false);
  });

  it('shows the next person nothing that the one before has begun', async () => {
    await act(() => {
      find<HTMLTextAreaElement>('#message').value = 'Secret';
      logIn('bob');
    });
    expect(find<HTMLTextAreaElement>('#message').value).toBe('');
    await open('settings');
    await until(() => expect(isShown('#settings')).toBe(true));
    const before = find('#settings');
    await act(() => logIn('alice'));
    await until(() => expect(isShown('#settings')).toBe(true));
    expect(find('#settings')).not.toBe(before);
  });
});
