import {afterEach, beforeEach, describe, expect, it, vi} from 'vitest';
import {answerRequests, NEVER, button, click, enter, find, hasButton, settle, show, texts} from '../ui/testing';
import type {Desktop} from '../api/types';
import {t} from '../i18n/i18n';
import {acceptToken, forgetToken} from '../session/session';
import {Confirmation} from '../ui/confirmation';
import {Toasts} from '../ui/toast';
import {DesktopModelsSection} from './desktop-models-section';
import {modelsByDesktop} from './model-store';
import {NO_PROGRESS} from './pull-progress';
import {PullsSection} from './pulls-section';
import {pulls, startPull, type Pull} from './pull-store';

const ATTIC: Desktop = {id: 'd1', name: 'attic', ollama: 'up', version: '1', models: ['llama3.2', 'gemma3'], resources: true};
const lists = {
  models: [{name: 'llama3.2', size: 2e9}, {name: 'gemma3', size: 3e9}],
  loaded: [{name: 'gemma3', size: 3e9, expires_at: '2027-01-01T00:00:00Z'}],
  error: '',
};
const MODEL = '.model .card-name > span:first-child';
let asked: string[];

beforeEach(() => {
  asked = answerRequests({
    'GET /ctllm/page': {role: 'cloud'}, 'GET /api/tags': {models: [{name: 'new', size: 1}]}, 'GET /api/ps': {models: []},
    'DELETE /api/delete': {}, 'POST /api/pull': NEVER, 'POST /api/copy': {}, 'POST /api/generate': {},
  });
  acceptToken({user: {id: 'a', name: 'alice'}, token: 'T', expires_in: 600}, Date.now());
  modelsByDesktop.value = new Map([['d1', lists]]);
});
afterEach(async () => {
  await show(null);
  pulls.value = [];
  forgetToken();
  vi.unstubAllGlobals();
});

const showSection = (desktop: Partial<Desktop> = {}, filter = ''): Promise<void> =>
  show(<><DesktopModelsSection desktop={{...ATTIC, ...desktop}} filter={filter} /><Confirmation /><Toasts /></>);

describe('the models of a desktop', () => {
  it('are those that the filter finds, and say which are in memory', async () => {
    await showSection();
    expect(texts(MODEL)).toEqual(['llama3.2', 'gemma3']);
    expect(texts('.model:has(.tag) .card-name > span:first-child')).toEqual(['gemma3']);
    await showSection({}, 'llama');
    expect(texts(MODEL)).toEqual(['llama3.2']);
  });

  it.each([
    [{ollama: 'down'}, '', t('models.ollamaDown')], [{}, 'x', t('models.noMatch', {text: 'x'})], [{ollama: 'demo'}, '', t('models.demo')], [{}, '', ''],
  ] as const)('have a remark: %j %j', async (desktop, filter, words) => {
    await showSection(desktop, filter);
    expect(texts('section > .soft').join()).toBe(words);
  });

  it('are read again by a button, unless Ollama is down', async () => {
    await showSection({ollama: 'down'});
    expect(document.querySelectorAll('header button')).toHaveLength(0);
    await showSection();
    await click(button(t('models.refresh')));
    await settle();
    expect(texts(MODEL)).toEqual(['new']);
  });

  it('show why their list could not be read', async () => {
    modelsByDesktop.value = new Map([['d1', {models: [], loaded: [], error: 'It is away.'}]]);
    await showSection();
    expect(find('.error').textContent).toBe('It is away.');
  });
});

describe('the menu of a model', () => {
  const open = async (name: string): Promise<void> => {
    await showSection();
    await click(button(t('models.actions', {name})));
  };

  it('offers to remove from memory what is there', async () => {
    await open('llama3.2');
    expect(hasButton(t('models.unload'))).toBe(false);
    await show(null);
    await open('gemma3');
    await click(button(t('models.unload')));
    expect(asked).toContain('POST /api/generate {"model":"gemma3","keep_alive":0,"stream":false}');
  });

  it('deletes a model if the person confirms it', async () => {
    await open('gemma3');
    await click(button(t('models.delete')));
    await click(button(t('app.cancel')));
    expect(asked.filter(each => each.startsWith('DELETE'))).toEqual([]);
    await click(button(t('models.actions', {name: 'gemma3'})));
    await click(button(t('models.delete')));
    await click(find('#confirmation .danger'));
    expect(asked).toContain('DELETE /api/delete {"model":"gemma3"}');
  });

  it('says why a model cannot be deleted', async () => {
    answerRequests({'DELETE /api/delete': new Response('{"error": "It is in use."}', {status: 500})});
    await open('gemma3');
    await click(button(t('models.delete')));
    await click(find('#confirmation .danger'));
    expect(texts('.toast.error p')).toEqual(['It is in use.']);
  });

  it('shows what Ollama knows of a model', async () => {
    await open('gemma3');
    await click(button(t('models.details')));
    expect(asked).toContain('POST /api/show {"model":"gemma3"}');
    expect(document.querySelectorAll('dialog')).toHaveLength(1);
  });

  it('gives a model a second name, without the blanks around it', async () => {
    await open('gemma3');
    await click(button(t('models.copy')));
    await enter(find<HTMLInputElement>('#copy-model input'), ' mine ');
    await click(find('#copy-model [type=submit]'));
    expect(asked).toContain('POST /api/copy {"source":"gemma3","destination":"mine"}');
    expect(document.querySelector('#copy-model')).toBeNull();
  });
});

describe('a pull', () => {
  const showPull = async (state: Pull['state'], error = ''): Promise<void> => {
    pulls.value = [{id: 1, desktop: 'd1', model: 'gemma3', state, progress: NO_PROGRESS, error}];
    await show(<PullsSection />);
  };
  const actions = (): readonly string[] => [...document.querySelectorAll('.pull button')].map(each => each.ariaLabel ?? '');

  it.each([
    ['running', ['models.cancelPull']], ['complete', ['models.dismissPull']],
    ['failed', ['models.retryPull', 'models.dismissPull']], ['interrupted', ['models.retryPull', 'models.dismissPull']],
  ] as const)('that is %s can be: %j', async (state, expected) => {
    await showPull(state);
    expect(actions()).toEqual(expected.map(key => t(key, {name: 'gemma3'})));
  });

  it('that failed begins again if the person wants that', async () => {
    await showPull('failed', 'No space left.');
    await click(button(t('models.retryPull', {name: 'gemma3'})));
    expect(pulls.value.map(({state}) => state)).toEqual(['running']);
    await click(button(t('models.cancelPull', {name: 'gemma3'})));
  });

  it('ends if the person wants that', async () => {
    startPull('d1', 'gemma3');
    await show(<PullsSection />);
    await settle();
    await click(button(t('models.cancelPull', {name: 'gemma3'})));
    expect(pulls.value.map(({state}) => state)).toEqual(['cancelled']);
  });

  it('says why it failed, as an error', async () => {
    await showPull('failed', 'No space left.');
    expect(find('.pull .error').textContent).toContain('No space left.');
  });

  it('leaves the list when the person has seen it', async () => {
    await showPull('complete');
    await click(button(t('models.dismissPull', {name: 'gemma3'})));
    expect(pulls.value).toEqual([]);
    expect(document.querySelector('#pulls')).toBeNull();
  });
});
