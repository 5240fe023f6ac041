import 'fake-indexeddb/auto';
import {afterEach, beforeEach, describe, expect, it, vi} from 'vitest';
import {answerRequests, click, find, press, settle, show, texts} from '../ui/testing';
import {acceptToken, forgetToken, user} from '../session/session';
import {Lazy} from '../ui/lazy';
import {isUpdateReady} from './page-update';
import {navigate, returnToChat, route} from './router';
import {findShortcut, showsShortcuts, watchShortcuts} from './shortcuts';
import {Sidebar, openDrawer} from './sidebar';
import {UpdateBanner} from './update-banner';
import {isNarrow} from './viewport';

const ID = 'a'.repeat(32);

beforeEach(() => {
  answerRequests({'GET /ctllm/page': {role: 'cloud'}});
  acceptToken({user: {id: 'a', name: 'alice'}, token: 'T', expires_in: 600}, Date.now());
});
afterEach(async () => {
  await show(null);
  forgetToken();
  isNarrow.value = false;
  isUpdateReady.value = false;
  navigate('chat');
  vi.unstubAllGlobals();
});

describe('the sidebar', () => {
  it('leads to the views, and marks the one that is shown', async () => {
    await show(<Sidebar />);
    expect((await click(find('[href="#view=models"]'), {metaKey: true})).defaultPrevented).toBe(false);
    expect(route.value.view).toBe('chat');
    await click(find('[href="#view=models"]'));
    expect([route.value.view, texts('.views [aria-current=page]')]).toEqual(['models', ['Models']]);
    await click(find('#open-settings'));
    expect([route.value.view, find('#open-settings').getAttribute('aria-current')]).toEqual(['settings', 'page']);
    navigate('chat', ID);
    await click(find('#new-chat'));
    expect(route.value).toEqual({view: 'chat', id: ''});
  });

  it('has nothing of a person who is not logged in', async () => {
    forgetToken();
    await show(<Sidebar />);
    for (const each of ['#new-chat', '.conversations', '[href="#view=models"]', '#account']) expect(document.querySelector(each)).toBeNull();
    expect(document.querySelector('[href="#view=privacy"]')).not.toBeNull();
  });

  it('is a drawer in a narrow window, which another view, Escape and a click outside close', async () => {
    isNarrow.value = true;
    await show(<Sidebar />);
    expect(document.querySelector('.sidebar')).toBeNull();
    const open = async (): Promise<HTMLElement> => {
      openDrawer();
      await settle();
      return find('.drawer');
    };
    await open();
    await click(find('[href="#view=models"]'));
    expect(document.querySelector('.drawer')).toBeNull();
    for (const event of [new Event('cancel', {cancelable: true}), new MouseEvent('mousedown')]) {
      (await open()).dispatchEvent(event);
      await settle();
      expect(document.querySelector('.drawer')).toBeNull();
    }
    await open();
    navigate('chat'); // after the deletion of the conversation that was shown, which may be undone here
    await settle();
    expect(document.querySelector('.drawer')).not.toBeNull();
    await click(find('#close-drawer'));
    expect(document.querySelector('.drawer')).toBeNull();
  });
});

describe('a shortcut', () => {
  const key = (name: string, options: KeyboardEventInit = {}): boolean => findShortcut(new KeyboardEvent('keydown', {key: name, ...options})) !== null;

  it('is a letter without a modifier', () => {
    expect([key('n'), key('N'), key('x'), key('Enter')]).toEqual([true, true, false, false]);
    for (const options of [{ctrlKey: true}, {metaKey: true}, {altKey: true}, {isComposing: true}]) expect(key('n', options)).toBe(false);
  });

  it('does nothing in a field, or over a dialog', async () => {
    const stop = watchShortcuts();
    await show(<><input /><button type="button" /></>);
    await press(find('input'), 'm');
    expect(route.value.view).toBe('chat');
    await press(find('button'), 'm');
    expect(route.value.view).toBe('models');
    await show(<button type="button" onKeyDown={event => event.preventDefault()} />);
    await press(find('button'), 's');
    expect(route.value.view).toBe('models');
    await show(<><dialog open /><button type="button" /></>);
    await press(find('button'), 's');
    expect(route.value.view).toBe('models');
    stop();
    await show(<button type="button" />);
    await press(find('button'), 's');
    expect(route.value.view).toBe('models');
  });

  it('needs somebody who is logged in, but for the status and the list of them', () => {
    forgetToken();
    expect([key('n'), key('m'), key('s'), key('?')]).toEqual([false, false, true, true]);
    findShortcut(new KeyboardEvent('keydown', {key: '?'}))?.();
    expect(showsShortcuts.value).toBe(true);
    showsShortcuts.value = false;
  });
});

describe('the views', () => {
  it('lead back to the conversation that was shown', () => {
    navigate('chat', ID);
    navigate('settings');
    returnToChat();
    expect(route.value).toEqual({view: 'chat', id: ID});
  });

  it('have an entry in the history, unless they replace another one', () => {
    const before = history.length;
    navigate('models', '', {replace: true});
    expect(history.length).toBe(before);
    navigate('status');
    expect(history.length).toBe(before + 1);
  });

  it('follow the address, but not a link that asks for something else', () => {
    location.hash = '#view=status';
    dispatchEvent(new HashChangeEvent('hashchange'));
    expect(route.value.view).toBe('status');
    history.replaceState(null, '', '#invite=x');
    dispatchEvent(new HashChangeEvent('hashchange'));
    expect(route.value.view).toBe('status');
  });

  it('say so if they cannot be loaded', async () => {
    sessionStorage.setItem('ctllm-reloaded', '1');
    await show(<Lazy load={() => Promise.reject(new Error('gone'))} />);
    await settle();
    expect(find('#not-loaded [role=alert]').textContent).not.toBe('');
    await show(<Lazy key="other" load={() => Promise.resolve({default: () => <p id="view">A view</p>})} />);
    await settle();
    expect([find('#view').textContent, sessionStorage.getItem('ctllm-reloaded')]).toEqual(['A view', null]);
  });
});

it('a new version is said when it is ready', async () => {
  await show(<UpdateBanner />);
  expect(document.querySelector('#update')).toBeNull();
  isUpdateReady.value = true;
  await settle();
  expect(find('#update button')).not.toBeNull();
  expect(user.value?.name).toBe('alice');
});
