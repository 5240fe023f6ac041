import {afterEach, beforeEach, describe, expect, it, vi} from 'vitest';
import {acceptToken, forgetToken} from '../session/session';
import {until} from '../testing';
import {cancelPull, dismissPull, parsePulls, pulls, startPull} from './pull-store';

const encoder = new TextEncoder();
let body: ReadableStreamDefaultController<Uint8Array>;
let sent: {path: string; init: RequestInit | undefined}[];

beforeEach(() => {
  sent = [];
  vi.stubGlobal('fetch', async (path: string, init?: RequestInit) => {
    sent.push({path, init});
    if (path !== '/api/pull') return new Response('{"models":[]}');
    return new Response(new ReadableStream<Uint8Array>({
      start(controller) {
        body = controller;
        init?.signal?.addEventListener('abort', () => controller.error(new DOMException('', 'AbortError')));
      },
    }));
  });
  acceptToken({user: {id: 'u', name: 'alice'}, token: 'T', expires_in: 600}, Date.now());
});
afterEach(() => {
  forgetToken();
  localStorage.clear();
  vi.unstubAllGlobals();
});

const write = (text: string): void => body.enqueue(encoder.encode(text));
const first = (): (typeof pulls.value)[number] | undefined => pulls.value[0];

async function start(model = 'llama3.2'): Promise<number> {
  const before = sent.length;
  const id = startPull('d1', model);
  await until(() => expect(sent.length).toBeGreaterThan(before));
  return id;
}

describe('a pull', () => {
  it('is asked of its desktop, and complete with the word success', async () => {
    await start();
    expect(sent[0]?.init?.headers).toMatchObject({'Ctllm-Desktop': 'd1'});
    write('{"status":"pulling a","digest":"a","total":10,"com');
    write('pleted":4}\n');
    await until(() => expect(first()?.progress.layers.get('a')?.completed).toBe(4));
    write('{"status":"success"}\n');
    await until(() => expect(first()?.state).toBe('complete'));
    await until(() => expect(sent.map(({path}) => path)).toContain('/api/tags'));
  });

  it('fails with the error of Ollama', async () => {
    await start();
    write('{"error":"pull model manifest: file does not exist"}\n');
    await until(() => expect(first()).toMatchObject({state: 'failed', error: 'pull model manifest: file does not exist'}));
  });

  it('is interrupted if it ends without an end', async () => {
    await start();
    write('{"status":"pulling manifest"}\n');
    body.close();
    await until(() => expect(first()?.state).toBe('interrupted'));
  });

  it('can be cancelled, and removed from the list then', async () => {
    const id = await start();
    dismissPull(id);
    expect(pulls.value).toHaveLength(1);
    cancelPull(id);
    await until(() => expect(first()?.state).toBe('cancelled'));
    dismissPull(id);
    expect(pulls.value).toHaveLength(0);
  });

  it('runs once for the same model, and beside those of others', async () => {
    const id = await start();
    expect(startPull('d1', 'llama3.2')).toBe(id);
    await start('qwen3');
    expect(pulls.value.map(({model}) => model)).toEqual(['qwen3', 'llama3.2']);
  });

  it('ends when another person logs in, who does not see it', async () => {
    await start();
    acceptToken({user: {id: 'v', name: 'bob'}, token: 'T', expires_in: 600}, Date.now());
    expect(pulls.value).toEqual([]);
    expect(sent[0]?.init?.signal?.aborted).toBe(true);
  });
});

/** What the browser has when the page is opened again. */
function reopen(id = 'u'): void {
  const stored = {...localStorage};
  forgetToken();
  for (const [key, value] of Object.entries(stored)) localStorage.setItem(key, String(value));
  acceptToken({user: {id, name: id}, token: 'T', expires_in: 600}, Date.now());
}

const listed = (): readonly string[] => pulls.value.map(({model, state}) => `${model} ${state}`);

describe('a pull of a page that was closed', () => {
  it('is found again, and goes on from the list', async () => {
    await start();
    await start('qwen3');
    reopen();
    await until(() => expect(listed()).toEqual(['qwen3 interrupted', 'llama3.2 interrupted']));
    await start();
    expect(listed()).toEqual(['llama3.2 running', 'qwen3 interrupted']);
    write('{"status":"success"}\n');
    await until(() => expect(first()?.state).toBe('complete'));
    reopen();
    await until(() => expect(listed()).toEqual(['qwen3 interrupted']));
  });

  it.each([
    ['complete', '{"status":"success"}\n'],
    ['failed', '{"error":"no such model"}\n'],
  ])('is not found again when it was %s', async (state, line) => {
    await start();
    write(line);
    await until(() => expect(first()?.state).toBe(state));
    expect(Object.keys(localStorage).filter(key => key.includes('pulls'))).toEqual([]);
  });

  it('is found again after a connection that broke', async () => {
    await start();
    body.error(new TypeError('network error'));
    await until(() => expect(first()?.state).toBe('interrupted'));
    reopen();
    await until(() => expect(listed()).toEqual(['llama3.2 interrupted']));
    dismissPull(first()?.id ?? 0);
    reopen();
    expect(listed()).toEqual([]);
  });

  it('is not shown to somebody else', async () => {
    await start();
    reopen('v');
    await new Promise(resolve => setTimeout(resolve));
    expect(pulls.value).toEqual([]);
    reopen();
    await until(() => expect(listed()).toEqual(['llama3.2 interrupted']));
  });

  it('is not shown while another tab goes on with it', async () => {
    await start();
    const names: string[] = [];
    vi.stubGlobal('navigator', {onLine: true, locks: {request: async (name: string, _: unknown, act: (lock: null) => unknown) => {
      names.push(name);
      return act(null);
    }}});
    reopen();
    await until(() => expect(names).toEqual(['ctllm-pull-d1 llama3.2']));
    expect(pulls.value).toEqual([]);
  });

  it.each([null, '', '{', '7', '{}', '[7]', '[{"desktop":1,"model":"x"}]', '[{"desktop":"d"}]'])('is not what a browser cannot have stored: %s', stored => {
    expect(parsePulls(stored)).toEqual([]);
  });
});

it('a pull is found again by a page that opens after the log-in', async () => {
  await start();
  vi.resetModules();
  const session = await import('../session/session');
  session.acceptToken({user: {id: 'u', name: 'alice'}, token: 'T', expires_in: 600}, Date.now());
  const opened = await import('./pull-store');
  await until(() => expect(opened.pulls.value).toMatchObject([{model: 'llama3.2', state: 'interrupted'}]));
});
