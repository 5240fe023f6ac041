import 'fake-indexeddb/auto';
import {afterEach, beforeEach, describe, expect, it, vi} from 'vitest';
import {answerRequests, button, click, enter, find, press, settle, show, texts, until} from '../ui/testing';
import {navigate, route} from '../app/router';
import {t} from '../i18n/i18n';
import {acceptToken, forgetToken} from '../session/session';
import {desktops} from '../status/status-store';
import {Confirmation} from '../ui/confirmation';
import {forgetsAtLogOut, logOutWithCopy, setForgetsAtLogOut} from './browser-copy';
import {ConversationList} from './conversation-list';
import {conversations} from './conversations';
import {databaseName} from './indexed-store';
import {jump} from './jump';
import {search} from './search';
import SyncDialog from './sync-dialog';
import type {DesktopSync} from './sync';
import {showsSyncDialog, SyncStatus} from './sync-status';
import {synchronisation} from './synchronisation';
import {someDesktop} from './testing';
import {addMessage} from './tree';
import {markUnread, watchUnread} from './unread';

// The worker that searches is no script of a server here.
vi.mock('../app/trusted-script', () => ({trustScript: (path: string) => path}));

const TITLE = '.conversation .title';
let number = 0;
let ids: readonly string[];

beforeEach(async () => {
  vi.stubGlobal('Worker', class { postMessage(): void {} terminate(): void {} });
  vi.spyOn(Element.prototype, 'clientHeight', 'get').mockReturnValue(1000);
  await conversations.switchUser(`user ${++number}`);
  ids = ['Second', 'First'].map(title => conversations.create({title}).id).reverse();
  await conversations.flush();
});
afterEach(async () => {
  await show(null);
  forgetToken();
  desktops.value = null;
  navigate('chat');
  await conversations.switchUser('');
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
});

const link = (title: string): HTMLAnchorElement => {
  const found = [...document.querySelectorAll<HTMLAnchorElement>('.conversation a')].find(each => each.textContent === title);
  if (!found) throw new Error(`No conversation is "${title}" in ${document.body.textContent}`);
  return found;
};
const titles = (): readonly (string | null)[] => [...texts(TITLE)].sort();

describe('the list of conversations', () => {
  beforeEach(() => show(<ConversationList />));

  it('shows a conversation that is clicked, and marks it; with a modifier the browser opens a tab', async () => {
    expect((await click(link('First'), {ctrlKey: true})).defaultPrevented).toBe(false);
    expect(route.value.id).toBe('');
    await click(link('First'));
    expect(ids).toContain(route.value.id);
    expect(texts('[aria-current=page]')).toEqual(['First']);
  });

  it('marks conversations with an answer in progress', async () => {
    await conversations.update(ids[0] ?? '', each => addMessage(each, {role: 'assistant', state: 'streaming'}));
    await settle();
    expect(document.querySelectorAll('.running')).toHaveLength(1);
  });

  it('marks conversations with an answer that nobody has seen, until they are opened', async () => {
    const stop = watchUnread();
    markUnread(ids[0] ?? '');
    await settle();
    expect(texts('a:has(.unread) .title')).toEqual(['First']);
    expect(find('.unread').ariaLabel).toBe(t('storage.unread'));
    await click(link('First'));
    expect(document.querySelector('.unread')).toBeNull();
    stop();
  });

  it('renames by the key F2: Enter keeps the title, Escape does not', async () => {
    await press(link('First'), 'F2');
    find<HTMLInputElement>('.rename').value = 'Other';
    await press(find('.rename'), 'Escape');
    expect(titles()).toEqual(['First', 'Second']);
    await press(link('First'), 'F2');
    find<HTMLInputElement>('.rename').value = ' Other ';
    find<HTMLFormElement>('.conversation form').requestSubmit();
    await settle();
    expect(titles()).toEqual(['Other', 'Second']);
  });

  it('keeps the title if nothing is left of the new one', async () => {
    await press(link('First'), 'F2');
    find<HTMLInputElement>('.rename').value = '  ';
    find<HTMLFormElement>('.conversation form').requestSubmit();
    await settle();
    expect(titles()).toEqual(['First', 'Second']);
  });

  it.each(['by the key Delete', 'by the menu'])('deletes %s, and undoes it', async way => {
    if (way === 'by the menu') {
      await click(button(t('storage.conversationMenu', {title: 'First'})));
      await click(button(t('storage.delete')));
    } else await press(link('First'), 'Delete');
    await until(() => expect(titles()).toEqual(['Second']));
    await until(() => expect(find('.undo').textContent).toContain(t('storage.deleted', {title: 'First'})));
    await click(find('#undo-delete'));
    await until(() => expect(titles()).toEqual(['First', 'Second']));
  });

  it('does nothing for keys with a modifier', async () => {
    await press(link('First'), 'Delete', {ctrlKey: true});
    expect(titles()).toEqual(['First', 'Second']);
  });

  it('says that it is empty', async () => {
    await conversations.deleteNow(ids);
    await settle();
    expect(find('.empty').textContent).toBe(t('storage.empty'));
  });
});

describe('the search box', () => {
  beforeEach(() => show(<ConversationList />));

  it('looks for what is written, and Escape ends that', async () => {
    await enter(find<HTMLInputElement>('#search'), 'fir');
    expect([search.value.words, texts(TITLE)]).toEqual([['fir'], []]);
    await press(find('#search'), 'Escape');
    expect([search.value.query, titles()]).toEqual(['', ['First', 'Second']]);
  });

  it('leads down to the list', async () => {
    await press(find('#search'), 'ArrowDown');
    expect(document.activeElement).toBe(document.querySelector('.conversation a'));
  });

  it('leads to the message of a hit', async () => {
    const begun = vi.spyOn(Worker.prototype, 'postMessage');
    await enter(find<HTMLInputElement>('#search'), 'fir');
    await until(() => expect(begun).toHaveBeenCalled());
    const [id = ''] = ids;
    search.value = {...search.value, hits: [{conversation: id, message: 'm', title: 'First', excerpt: 'the first', updatedAt: 1}], isComplete: true};
    await settle();
    expect(texts('.hit mark')).toEqual(['Fir', 'fir']);
    expect(find('.hit-count').textContent).toBe('1 result');
    await click(find('.hit a'));
    expect([route.value.id, jump.value]).toEqual([id, {conversation: id, message: 'm', words: ['fir']}]);
    jump.value = null;
    await press(find('#search'), 'Escape');
  });
});

describe('the log-out', () => {
  let isLoggedOut: boolean;
  const logOut = async (): Promise<void> => { isLoggedOut = true; };
  const databases = async (): Promise<readonly (string | undefined)[]> => (await indexedDB.databases()).map(({name}) => name);

  beforeEach(async () => {
    isLoggedOut = false;
    setForgetsAtLogOut(true);
    await show(<Confirmation />);
  });
  afterEach(() => setForgetsAtLogOut(false));

  it('is asked about if this browser alone has conversations, and does not happen if the person cancels it', async () => {
    const ended = logOutWithCopy(logOut, () => isLoggedOut);
    await until(() => expect(find('#confirmation').textContent).toContain(t('storage.logOut.loss', {count: 2})));
    await click(button(t('app.cancel')));
    await ended;
    expect(isLoggedOut).toBe(false);
    expect(await databases()).toContain(databaseName(`user ${number}`));
  });

  it('deletes the copy of this browser, and all drafts, once the person has confirmed that', async () => {
    const draft = `ctllm.draft..user ${number}`;
    sessionStorage.setItem(draft, 'Not sent');
    const ended = logOutWithCopy(logOut, () => isLoggedOut);
    await until(() => expect(document.querySelector('#confirmation')).not.toBeNull());
    await click(find('#confirmation .danger'));
    await ended;
    expect(sessionStorage.getItem(draft)).toBeNull();
    expect(isLoggedOut).toBe(true);
    expect(await databases()).not.toContain(databaseName(`user ${number}`));
  });

  it('is not asked about if nothing would be lost', async () => {
    await conversations.deleteNow(ids);
    await logOutWithCopy(logOut, () => isLoggedOut);
    expect(isLoggedOut).toBe(true);
    expect(await databases()).not.toContain(databaseName(`user ${number}`));
  });

  it('keeps the copy of this browser if it fails, or if the person keeps copies', async () => {
    await conversations.deleteNow(ids);
    await logOutWithCopy(async () => {}, () => false);
    expect(await databases()).toContain(databaseName(`user ${number}`));
    setForgetsAtLogOut(false);
    await logOutWithCopy(logOut, () => isLoggedOut);
    expect(await databases()).toContain(databaseName(`user ${number}`));
  });
});

describe('the synchronisation', () => {
  const showStatus = (): Promise<void> => show(<><SyncStatus /><SyncDialog /></>);

  /** A desktop with conversations that nobody has decided about. */
  async function ask(count = 1, id = 'one'): Promise<void> {
    answerRequests({
      'GET /ctllm/page': {role: 'cloud'},
      'GET /ctllm/desktop/conversations?since=0': {revision: 1, conversations: Array.from({length: count}, () => ({id: 'a'.repeat(32), revision: 1, size: 1, deleted: false}))},
    });
    acceptToken({user: {id: 'a', name: 'alice'}, token: 'T', expires_in: 600}, Date.now());
    desktops.value = [someDesktop(id)];
    await synchronisation.syncNow();
    await showStatus();
  }

  it('is asked about where a desktop has conversations, and the person decides', async () => {
    const choose = vi.spyOn(synchronisation, 'choose').mockResolvedValue();
    await ask();
    expect(find('#sync-question').textContent).toContain('1 conversation');
    await click(button(t('storage.sync.on')));
    expect(choose).toHaveBeenCalledWith('one', 'Desk one', 'on');
    await click(button(t('storage.sync.notNow')));
    expect(document.querySelector('#sync-question')).toBeNull();
  });

  it('is not asked about where a desktop has nothing', async () => {
    await ask(0, 'empty');
    expect(synchronisation.desktops.value).toMatchObject([{state: 'undecided', found: 0}]);
    expect(document.querySelector('#sync-question')).toBeNull();
  });

  it.each([
    [['synchronised', 'running'], 'storage.sync.running', 'Desk b'], [['synchronised', 'running', 'failing'], 'storage.sync.wrong', 'Desk c'],
    [['full'], 'storage.sync.wrong', 'Desk a'], [['away', 'off'], 'storage.sync.away', 'Desk a'], [['off', 'undecided'], 'storage.sync.none', ''],
  ] as const)('that is %j is said in a line: %s', async (states, key, name) => {
    const each = states.map((state, index): DesktopSync => ({id: String(index), name: `Desk ${'abc'[index]}`, state, at: 0, problem: '', left: 0, found: null, unreadable: 0, refused: 0}));
    Object.defineProperty(synchronisation.desktops, 'value', {value: each, configurable: true});
    await show(<SyncStatus />);
    Reflect.deleteProperty(synchronisation.desktops, 'value');
    expect(find('#sync-status').textContent).toBe(t(key, {name}));
  });

  it('is chosen for each desktop in the dialog', async () => {
    const choose = vi.spyOn(synchronisation, 'choose').mockResolvedValue();
    await ask();
    expect(find<HTMLInputElement>('.sync-desktops input').checked).toBe(false);
    await click(find('.sync-desktops input'));
    expect(choose).toHaveBeenCalledWith('one', 'Desk one', 'on');
  });

  it('cannot be chosen for a desktop that keeps no conversations', async () => {
    desktops.value = [someDesktop('one', {resources: false})];
    await showStatus();
    expect(find<HTMLInputElement>('.sync-desktops input').disabled).toBe(true);
  });

  it('is explained by the dialog that its line opens', async () => {
    await showStatus();
    await click(find('#sync-status'));
    expect(showsSyncDialog.value).toBe(true);
    expect(document.body.textContent).toContain(t('storage.sync.noDesktop'));
    await press(find('#sync-dialog'), 'x');
    find('#sync-dialog').dispatchEvent(new Event('cancel', {cancelable: true}));
    expect(showsSyncDialog.value).toBe(false);
  });

  it('has a copy in this browser, which the person may give up at the log-out', async () => {
    await showStatus();
    await click(find('#forget-at-log-out'));
    expect([forgetsAtLogOut.value, localStorage.getItem('ctllm.forget-conversations')]).toEqual([true, 'yes']);
    await click(find('#forget-at-log-out'));
    expect([forgetsAtLogOut.value, localStorage.getItem('ctllm.forget-conversations')]).toEqual([false, null]);
  });
});
