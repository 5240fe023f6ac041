import {afterEach, beforeEach, describe, expect, it, vi} from 'vitest';
import {answerRequests, button, click, find, hasButton, NEVER, settle, show, texts, until} from '../ui/testing';
import type {Desktop} from '../api/types';
import {navigate} from '../app/router';
import {RequestError} from '../api/http';
import {t} from '../i18n/i18n';
import {NO_PROGRESS} from '../models/pull-progress';
import {pulls, type Pull} from '../models/pull-store';
import {startProblem} from '../session/login-flow';
import {acceptToken, forgetToken} from '../session/session';
import {desktops, isOnline, nextTry, pageServer, problem, proxy, reachability} from '../status/status-store';
import {CannotStart} from './cannot-start';
import {FirstModel} from './no-model';
import {NoDesktop} from './no-desktop';
import {pairing} from './pairing';
import Screens from './screens';
import {isSetupDone} from './setup-store';
import {INSTALL} from './system';
import {Welcome} from './welcome';

const ATTIC: Desktop = {id: 'd1', name: 'attic', ollama: 'up', version: '1', models: ['llama3.2'], resources: true};
const ID = 'a'.repeat(32);
const answers: Record<string, unknown> = {};
let asked: string[];

beforeEach(() => {
  for (const name of Object.keys(answers)) delete answers[name];
  Object.assign(answers, {'GET /ctllm/page': {role: 'cloud'}, 'GET /health': {version: '1'}, 'POST /ctllm/session/pairing': {command: 'ctllm login x', expires_in: 60}});
  asked = answerRequests(answers);
  acceptToken({user: {id: 'a', name: 'alice'}, token: 'T', expires_in: 600}, Date.now());
  know({});
});
afterEach(async () => {
  await show(null);
  vi.useRealTimers();
  forgetToken();
  navigate('chat');
  pulls.value = [];
  startProblem.value = null;
  for (const each of [desktops, nextTry, pageServer, problem, proxy]) each.value = null;
  vi.unstubAllGlobals();
});

/** What the page knows: all is well, unless something else is given. */
function know({list = [ATTIC], online = true, reached = 'ok', role = 'cloud'}: {list?: readonly Desktop[]; online?: boolean; reached?: 'ok' | 'unreachable'; role?: 'cloud' | 'desktop'}): void {
  isOnline.value = online;
  reachability.value = reached;
  pageServer.value = {role, version: '1'};
  proxy.value = {state: 'running', exchanges: 0};
  desktops.value = list;
}

describe('the chat', () => {
  const showChat = async (): Promise<void> => {
    await show(<Welcome><p id="chat">Chat</p></Welcome>);
    await settle();
  };
  const isHidden = (): boolean => find('.chat-slot').hasAttribute('hidden');

  it('is there if nothing is missing', async () => {
    await showChat();
    expect([isHidden(), texts('.banner')]).toEqual([false, []]);
  });

  it('gives way to a screen about what is missing, and is back with it', async () => {
    know({list: [{...ATTIC, ollama: 'down'}]});
    await showChat();
    await until(() => expect(isHidden()).toBe(true));
    await until(() => expect(document.querySelector('#no-ollama')).not.toBeNull());
    know({});
    await settle();
    expect(isHidden()).toBe(false);
  });

  it('stays for who reads a conversation; a line says what is missing', async () => {
    navigate('chat', ID);
    know({list: [{...ATTIC, models: []}]});
    await showChat();
    expect([isHidden(), texts('.banner')]).toEqual([false, [t('onboarding.model.short', {name: 'attic'})]]);
  });

  it('stays for who has written something', async () => {
    know({online: false, reached: 'unreachable'});
    await show(<Welcome><textarea id="message">Dear model</textarea></Welcome>);
    await settle();
    expect(isHidden()).toBe(false);
  });

  it.each([{}, {list: []}])('does not give way to a desktop that is missing for a moment only, after %j', async before => {
    vi.useFakeTimers({toFake: ['setTimeout', 'clearTimeout']});
    know(before);
    const wait = async (milliseconds: number): Promise<void> => {
      await show(<Welcome><p>Chat</p></Welcome>); // which begins to count
      await vi.advanceTimersByTimeAsync(milliseconds);
      await show(<Welcome><p>Chat</p></Welcome>);
    };
    await wait(0);
    know({list: []});
    await wait(1_900);
    expect(isHidden()).toBe(false);
    know({});
    await wait(3_000);
    know({list: []});
    await wait(1_900);
    expect(isHidden()).toBe(false);
    await wait(200);
    expect(isHidden()).toBe(true);
  });

  it('on a desktop gives way to the first steps, until they are done', async () => {
    know({role: 'desktop'});
    isSetupDone.value = false;
    await showChat();
    expect(isHidden()).toBe(true);
    isSetupDone.value = true;
    await settle();
    expect(isHidden()).toBe(false);
  });
});

describe('a screen', () => {
  it.each([
    ['no-network', {online: false, reached: 'unreachable'}], ['no-server', {reached: 'unreachable'}], ['no-desktop', {list: []}],
    ['old-desktop', {list: [{...ATTIC, resources: false}]}], ['no-ollama', {list: [{...ATTIC, ollama: 'down'}]}], ['no-model', {list: [{...ATTIC, models: []}]}],
  ] as const)('is %s for %j', async (id, knowledge) => {
    know(knowledge);
    await show(<Screens />);
    expect([...document.querySelectorAll('.screen')].map(each => each.id)).toEqual([id]);
  });

  it('about the server says why, and tries again if the person wants that', async () => {
    know({reached: 'unreachable'});
    problem.value = new RequestError('The cloud cannot be reached.');
    nextTry.value = Date.now() + 60_000;
    await show(<Screens />);
    expect(texts('.screen p')).toEqual(['The cloud cannot be reached.', t('onboarding.retryIn', {seconds: 60})]);
    await click(button(t('onboarding.tryNow')));
    expect(asked).toContain('GET /health');
  });

  it('about a start that failed says why, and starts again', async () => {
    await show(<CannotStart />);
    expect(document.body.textContent).toBe('');
    startProblem.value = {message: 'The cloud is restarting.', retryAt: Date.now() + 3_000};
    await settle();
    expect(find('#cannot-start').textContent).toContain('The cloud is restarting.');
    answers['POST /ctllm/session/token'] = {user: {id: 'a', name: 'alice'}, token: 'T2', expires_in: 600};
    await click(button(t('onboarding.tryNow')));
    await until(() => expect(startProblem.value).toBeNull());
  });
});

describe('the first model', () => {
  const showPull = async (state: Pull['state'], error = ''): Promise<void> => {
    know({list: [{...ATTIC, models: []}]});
    pulls.value = [{id: 1, desktop: 'd1', model: 'gemma3:4b', state, progress: NO_PROGRESS, error}];
    await show(<FirstModel />);
  };

  it('is the one that the person chooses', async () => {
    know({list: [{...ATTIC, models: []}]});
    await show(<FirstModel />);
    await click(find('[value="gemma3:4b"]'));
    await click(find('#pull-first'));
    expect(asked).toContain('POST /api/pull {"model":"gemma3:4b"}');
  });

  it('is chosen again after a failure, whose reason is said', async () => {
    await showPull('failed', 'No space left.');
    expect(find('[role=alert]').textContent).toBe('No space left.');
    expect(document.querySelector('#pull-first')).not.toBeNull();
  });

  it('goes on where an interrupted pull was, or is another one', async () => {
    await showPull('interrupted');
    await click(find('#resume-pull'));
    expect(asked).toContain('POST /api/pull {"model":"gemma3:4b"}');
    await showPull('interrupted');
    await click(button(t('onboarding.model.other')));
    expect(pulls.value).toEqual([]);
    expect(document.querySelector('#pull-first')).not.toBeNull();
  });

  it('is shown while it is pulled, which the person may end', async () => {
    answers['POST /api/pull'] = NEVER;
    await showPull('interrupted');
    await click(find('#resume-pull'));
    expect([hasButton(t('app.cancel')), document.querySelector('#pull-first')]).toEqual([true, null]);
    await click(button(t('app.cancel')));
    expect(document.querySelector('#pull-first')).not.toBeNull();
  });

  it('is looked for as soon as it is there', async () => {
    await showPull('running');
    asked.length = 0;
    await showPull('complete');
    await settle();
    expect(asked).toContain('GET /health');
  });
});

describe('the command that connects a desktop', () => {
  it('is made by a button, and made again when it has expired', async () => {
    await show(<NoDesktop />);
    await click(find('#create-pairing'));
    expect(find('#pairing code').textContent).toBe('ctllm login x');
    pairing.value = {state: 'ready', command: 'old', expiresAt: Date.now() - 1};
    await settle();
    expect(document.querySelector('#pairing')).toBeNull();
    expect(document.body.textContent).toContain(t('onboarding.pairing.expired'));
    await click(find('#create-pairing'));
    expect(find('#pairing code').textContent).toBe('ctllm login x');
    pairing.value = {state: 'none'};
  });

  it('follows the command that installs it, for the system that the person chooses', async () => {
    await show(<NoDesktop />);
    await click(button('Windows'));
    expect(find('[role=tabpanel] code').textContent).toBe(INSTALL.windows);
  });

  it('says why it cannot be made', async () => {
    answers['POST /ctllm/session/pairing'] = new Response('{"error": {"message": "Too many."}}', {status: 429});
    await show(<NoDesktop />);
    await click(find('#create-pairing'));
    expect(find('[role=alert]').textContent).toBe('Too many.');
    pairing.value = {state: 'none'};
  });
});
