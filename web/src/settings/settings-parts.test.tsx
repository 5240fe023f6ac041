import {afterEach, beforeEach, describe, expect, it, vi} from 'vitest';
import {answerRequests, button, click, enter, find, settle, show, texts} from '../ui/testing';
import {t} from '../i18n/i18n';
import {acceptToken, forgetToken} from '../session/session';
import {desktops, pageServer} from '../status/status-store';
import {Confirmation} from '../ui/confirmation';
import {Toasts} from '../ui/toast';
import {AccountSection} from './account-section';
import {apiKeys} from './api-keys';
import {GeneralSection} from './general-section';
import {KeysSection} from './keys-section';
import {MachinesSection} from './machines-section';
import {preferences, setPreference} from './preferences';
import SettingsView from './settings-view';

const KEY = {id: 'k1', name: 'laptop', scopes: ['use']};
const MACHINE = {id: 'm1', name: 'desk', fingerprint: 'SHA256:x', scopes: ['use'], created: 1, last_used: null, last_address: ''};
const answers: Record<string, unknown> = {};
let asked: string[];

beforeEach(() => {
  for (const name of Object.keys(answers)) delete answers[name];
  Object.assign(answers, {
    'GET /ctllm/page': {role: 'cloud'}, 'GET /ctllm/keys': {keys: [KEY]}, 'GET /ctllm/machines': {machines: [MACHINE]},
    'DELETE /ctllm/keys/k1': {}, 'DELETE /ctllm/machines/m1': {}, 'PATCH /ctllm/machines/m1': {}, 'POST /ctllm/keys': {id: 'k2', key: 'secret-key'},
    'GET /ctllm/providers': {providers: [{name: 'acme', title: 'Acme', issuer: 'https://acme.example/'}]},
  });
  asked = answerRequests(answers);
  acceptToken({user: {id: 'https://acme.example|a', name: 'alice'}, token: 'T', expires_in: 600}, Date.now());
});
afterEach(async () => {
  await show(null);
  forgetToken();
  desktops.value = null;
  vi.useRealTimers();
  vi.unstubAllGlobals();
});
const changes = (): readonly string[] => asked.filter(each => !each.startsWith('GET'));
const refuse = (message: string): Response => new Response(JSON.stringify({error: {message}}), {status: 503});

describe('the sections', () => {
  const sections = (): readonly (string | null)[] => texts('.section-links button');

  afterEach(() => { pageServer.value = null; });

  it.each([['cloud', true], ['desktop', false]] as const)('on the page of a %s have the machines: %s', async (role, expected) => {
    pageServer.value = {role, version: '1'};
    await show(<SettingsView />);
    await settle();
    expect(sections().includes(t('settings.machinesShort'))).toBe(expected);
    expect(document.querySelector('#settings-machines') !== null).toBe(expected);
  });

  it('of somebody who is not logged in are those of the browser', async () => {
    forgetToken();
    await show(<SettingsView />);
    expect(sections()).toEqual([t('settings.general')]);
  });
});

describe('the API keys', () => {
  const showKeys = async (): Promise<void> => {
    await show(<><KeysSection /><Confirmation /><Toasts /></>);
    await settle();
  };

  it('are revoked if the person confirms it', async () => {
    await showKeys();
    await click(button(t('settings.revokeName', {name: 'laptop'})));
    await click(button(t('app.cancel')));
    expect(changes()).toEqual([]);
    await click(button(t('settings.revokeName', {name: 'laptop'})));
    await click(find('#confirmation .danger'));
    expect(changes()).toEqual(['DELETE /ctllm/keys/k1']);
    expect(texts('.api-key')).toEqual([]);
    expect(document.body.textContent).toContain(t('settings.noKeys'));
  });

  it('say what is wrong with their list, and with a revocation', async () => {
    answers['DELETE /ctllm/keys/k1'] = refuse('Not now.');
    await showKeys();
    await click(button(t('settings.revokeName', {name: 'laptop'})));
    await click(find('#confirmation .danger'));
    expect(texts('.toast.error p')).toEqual(['Not now.']);
    expect(texts('.api-key')).toHaveLength(1);
    await show(null);
    answers['GET /ctllm/keys'] = refuse('The cloud is restarting.');
    await showKeys();
    expect(texts('.error')).toContain('The cloud is restarting.');
  });

  it('are looked at again while a desktop has not stored one', async () => {
    answers['GET /ctllm/keys'] = {keys: [{...KEY, state: 'pending'}]};
    await showKeys();
    expect(texts('.tag')).toEqual([t('settings.keyPending')]);
    vi.useFakeTimers({toFake: ['setInterval']});
    await show(null);
    await show(<KeysSection />);
    answers['GET /ctllm/keys'] = {keys: [{...KEY, state: 'failed', message: 'It was away.'}]};
    vi.advanceTimersByTime(5_000);
    await settle();
    expect(texts('.tag')).toEqual([t('settings.keyFailed')]);
    expect(find('.api-key .error').textContent).toBe('It was away.');
  });

  it('are shown once when they are made', async () => {
    await showKeys();
    await click(find('#new-key'));
    await enter(find<HTMLInputElement>('#key-form [name=name]'), ' phone ');
    await click(find('#key-form [type=submit]'));
    expect(changes()).toEqual(['POST /ctllm/keys {"name":"phone","scopes":["use"]}']);
    expect(find('#created-key').textContent).toContain('secret-key');
    await click(button(t('settings.done')));
    expect(document.querySelector('#created-key')).toBeNull();
  });

  it('for some models need at least one', async () => {
    desktops.value = [{id: 'd1', name: 'attic', ollama: 'up', version: '1', models: ['llama3.2']}];
    await showKeys();
    await click(find('#new-key'));
    await enter(find<HTMLInputElement>('#key-form [name=name]'), 'phone');
    await click(find('#key-form [value=some]'));
    await click(find('#key-form [type=submit]'));
    expect(find('#key-form').textContent).toContain(t('settings.keyChooseModels'));
    expect(changes()).toEqual([]);
    await click(find('#key-form [name=model]'));
    await click(find('#key-form [type=submit]'));
    expect(changes()).toEqual(['POST /ctllm/keys {"name":"phone","scopes":["use"],"models":["llama3.2"],"desktop":"d1"}']);
  });
});

describe('the machines', () => {
  const showMachines = async (): Promise<void> => {
    await show(<><MachinesSection /><Confirmation /><Toasts /></>);
    await settle();
  };

  it('have a name that the person may change, but not to nothing', async () => {
    await showMachines();
    const input = find<HTMLInputElement>('.machine input');
    await enter(input, ' ');
    expect([input.value, changes()]).toEqual(['desk', []]);
    await enter(input, 'desk ');
    expect(changes()).toEqual([]);
    await enter(input, ' attic ');
    expect(changes()).toEqual(['PATCH /ctllm/machines/m1 {"name":"attic"}']);
  });

  it('are removed if the person confirms it', async () => {
    await showMachines();
    await click(button(t('settings.removeName', {name: 'desk'})));
    await click(button(t('app.cancel')));
    expect(changes()).toEqual([]);
    await click(button(t('settings.removeName', {name: 'desk'})));
    answers['GET /ctllm/machines'] = {machines: []};
    await click(find('#confirmation .danger'));
    expect(changes()).toEqual(['DELETE /ctllm/machines/m1']);
    expect(document.body.textContent).toContain(t('settings.noMachines'));
  });

  it('say what they may', async () => {
    answers['GET /ctllm/machines'] = {machines: [MACHINE, {...MACHINE, id: 'm2', scopes: ['use', 'manage']}]};
    await showMachines();
    expect(texts('.machine p').map(text => text?.includes(t('settings.mayChange')))).toEqual([false, true]);
  });
});

describe('the preferences', () => {
  it('are what the person chooses', async () => {
    await show(<GeneralSection />);
    await enter(find<HTMLSelectElement>('[data-preference=theme]'), 'dark');
    await enter(find<HTMLSelectElement>('[data-preference=sendKey]'), 'ctrl-enter');
    expect(preferences.value).toMatchObject({theme: 'dark', sendKey: 'ctrl-enter'});
    setPreference('theme', 'system');
    setPreference('sendKey', 'enter');
  });
});

describe('the account', () => {
  it('names the provider of the person, and the desktops', async () => {
    desktops.value = [{id: 'd1', name: 'attic', ollama: 'down', version: '1', models: []}];
    await show(<AccountSection />);
    await settle();
    expect(find('#settings-user').textContent).toBe(t('settings.withProvider', {name: 'alice', provider: 'Acme'}));
    expect(find('#settings-desktops').textContent).toBe(`attic: ${t('status.ollamaIsDown')}`);
    expect(document.querySelector('#open-setup')).toBeNull();
  });
});

it('keys of one person are not shown to the next one, who logs in while they are read', async () => {
  await show(<KeysSection />);
  acceptToken({user: {id: 'b', name: 'bob'}, token: 'B', expires_in: 600}, Date.now());
  await settle();
  expect(apiKeys.value).toBeNull();
});
