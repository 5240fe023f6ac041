import {afterEach, beforeEach, describe, expect, it, vi} from 'vitest';
import {answerRequests, button, click, enter, find, hasButton, settle, show, texts} from '../ui/testing';
import type {Desktop, ProxyStatus} from '../api/types';
import {navigate, route} from '../app/router';
import {t} from '../i18n/i18n';
import {acceptToken, forgetToken} from '../session/session';
import {Confirmation} from '../ui/confirmation';
import {Toasts} from '../ui/toast';
import {DesktopCard} from './desktop-card';
import {PathLine} from './path-line';
import {PathView} from './path-view';
import {PreferenceChoice} from './preference-choice';
import {ProxySection} from './proxy-section';
import {desktops, isOnline, nextTry, pageServer, proxy, reachability} from './status-store';

const ATTIC: Desktop = {id: 'd1', name: 'attic', ollama: 'up', version: '0.9', models: ['a', 'b'], resources: false};
const answers: Record<string, unknown> = {};
let asked: string[];

beforeEach(() => {
  Object.assign(answers, {
    'GET /ctllm/page': {role: 'cloud'}, 'GET /health': {version: '1'}, 'GET /ctllm/proxy': {state: 'running', exchanges: 2}, 'GET /ctllm/desktops': {desktops: []},
    'PUT /ctllm/proxy': {}, 'DELETE /ctllm/proxy': {}, 'GET /ctllm/desktop/preference': {routing_policy: 'local'}, 'PUT /ctllm/desktop/preference': {},
  });
  asked = answerRequests(answers);
  acceptToken({user: {id: 'a', name: 'alice'}, token: 'T', expires_in: 600}, Date.now());
});
afterEach(async () => {
  await show(null);
  forgetToken();
  navigate('chat');
  for (const each of [proxy, desktops, nextTry, pageServer]) each.value = null;
  reachability.value = 'unknown';
  isOnline.value = true;
  vi.unstubAllGlobals();
});

describe('the proxy', () => {
  const showProxy = async (status: Partial<ProxyStatus>): Promise<void> => {
    proxy.value = {state: 'running', exchanges: 0, ...status};
    await show(<><ProxySection /><Confirmation /><Toasts /></>);
  };
  const changes = (): readonly string[] => asked.filter(each => !each.startsWith('GET'));

  it.each([['absent', 'status.start'], ['failed', 'status.start'], ['running', 'status.stop'], ['starting', 'status.stop']] as const)('that is %s has one button', async (state, key) => {
    await showProxy({state});
    expect(texts('header button')).toEqual([t(key)]);
  });

  it('is started, and its state is read again', async () => {
    await showProxy({state: 'absent'});
    await click(button(t('status.start')));
    await settle();
    expect(changes()).toEqual(['PUT /ctllm/proxy']);
    expect(proxy.value?.exchanges).toBe(2);
  });

  it('is stopped if the person confirms it', async () => {
    await showProxy({});
    await click(button(t('status.stop')));
    await click(button(t('app.cancel')));
    expect(changes()).toEqual([]);
    await click(button(t('status.stop')));
    await click(find('#confirmation .danger'));
    expect(changes()).toEqual(['DELETE /ctllm/proxy']);
  });

  it('says why it cannot be started', async () => {
    answers['PUT /ctllm/proxy'] = new Response('{"error": {"message": "There is no room."}}', {status: 503});
    await showProxy({state: 'failed', error: 'It has crashed.'});
    expect(find('.error').textContent).toBe('It has crashed.');
    await click(button(t('status.start')));
    expect(texts('.toast.error p')).toEqual(['There is no room.']);
  });

  it('is idle for a time only without requests, and has facts only while it runs', async () => {
    await showProxy({idle_seconds: 7, memory_bytes: 5e6});
    const labels = (): readonly (string | null)[] => texts('dt');
    expect(labels()).toEqual(['status.proxyState', 'status.requests', 'status.idle', 'status.memory'].map(key => t(key as 'status.idle')));
    await showProxy({idle_seconds: 7, exchanges: 1});
    expect(labels()).not.toContain(t('status.idle'));
    await showProxy({state: 'starting', idle_seconds: 7, memory_bytes: 5e6});
    expect(labels()).toEqual([t('status.proxyState')]);
  });
});

describe('where the apps of a desktop ask', () => {
  it('is what the desktop says, and what the person chooses', async () => {
    await show(<><PreferenceChoice desktop="d1" name="attic" /><Toasts /></>);
    await settle();
    expect(find<HTMLSelectElement>('select').value).toBe('local');
    await enter(find<HTMLSelectElement>('select'), 'cloud');
    expect(asked).toContain('PUT /ctllm/desktop/preference {"routing_policy":"cloud"}');
    expect(find<HTMLSelectElement>('select').value).toBe('cloud');
    expect(texts('.toast p')).toContain(t('status.preferenceSaved', {name: 'attic'}));
  });

  it('stays what it was if the desktop refuses', async () => {
    answers['PUT /ctllm/desktop/preference'] = new Response('{"error": {"message": "The disk is full."}}', {status: 507});
    await show(<><PreferenceChoice desktop="d1" name="attic" /><Toasts /></>);
    await settle();
    await enter(find<HTMLSelectElement>('select'), 'never');
    expect(find<HTMLSelectElement>('select').value).toBe('local');
    expect(texts('.toast.error p')).toContain('The disk is full.');
  });

  it.each([{routing_policy: 'odd'}, undefined])('is not shown for a desktop that says %j', async said => {
    answers['GET /ctllm/desktop/preference'] = said;
    await show(<PreferenceChoice desktop="d1" name="attic" />);
    await settle();
    expect(document.querySelector('select')).toBeNull();
  });
});

describe('a desktop', () => {
  it('has its version and its number of models while Ollama runs, and leads to them', async () => {
    await show(<DesktopCard desktop={ATTIC} isBest={false} />);
    expect(texts('dd')).toEqual([t('status.version', {version: '0.9'}), '2 models', t('status.resourcesNo')]);
    expect(document.body.textContent).not.toContain(t('status.best'));
    await click(button(t('status.showModels')));
    expect(route.value.view).toBe('models');
  });

  it('says where its own apps ask, if it has such a choice', async () => {
    await show(<DesktopCard desktop={ATTIC} isBest />);
    await settle();
    expect(document.querySelector('.preference')).toBeNull();
    await show(<DesktopCard desktop={{...ATTIC, resources: true}} isBest />);
    await settle();
    expect(find<HTMLSelectElement>('.preference').value).toBe('local');
  });

  it('that is the best one says so, and one without Ollama has no models', async () => {
    await show(<DesktopCard desktop={{...ATTIC, ollama: 'down'}} isBest />);
    expect(document.body.textContent).toContain(t('status.best'));
    expect(texts('dd')).toEqual([t('status.resourcesNo')]);
    expect(find('.tag').className).toBe('tag off');
  });
});

describe('the path', () => {
  it('leads from the line of dots to the picture', async () => {
    await show(<PathLine />);
    expect(find('.path-summary').textContent).toBe(t('status.checking'));
    await click(find('.path-line'));
    expect(route.value.view).toBe('status');
  });

  it('names the best desktop when all is well', async () => {
    pageServer.value = {role: 'cloud', version: '1'};
    reachability.value = 'ok';
    proxy.value = {state: 'running', exchanges: 0};
    desktops.value = [ATTIC];
    await show(<PathLine />);
    expect(find('.path-summary').textContent).toBe(t('status.allWell', {name: 'attic'}));
  });

  it('says when it is tried again, and tries at once if the person wants that', async () => {
    await show(<PathView />);
    expect(hasButton(t('status.tryNow'))).toBe(false);
    nextTry.value = Date.now() + 60_000;
    await settle();
    asked.length = 0;
    await click(button(t('status.tryNow')));
    expect(asked).toContain('GET /health');
  });
});
