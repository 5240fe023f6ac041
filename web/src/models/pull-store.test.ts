import {afterEach, beforeEach, describe, expect, it, vi} from 'vitest';
import {acceptToken, forgetToken} from '../session/session';
import {cancelPull, dismissPull, pulls, startPull} from './pull-store';

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
  vi.unstubAllGlobals();
});

const write = (text: string): void => body.enqueue(encoder.encode(text));
const first = (): (typeof pulls.value)[number] | undefined => pulls.value[0];

async function start(model = 'llama3.2'): Promise<number> {
  const before = sent.length;
  const id = startPull('d1', model);
  await vi.waitFor(() => expect(sent.length).toBeGreaterThan(before));
  return id;
}

describe('a pull', () => {
  it('is asked of its desktop, and complete with the word success', async () => {
    await start();
    expect(sent[0]?.init?.headers).toMatchObject({'Ctllm-Desktop': 'd1'});
    write('{"status":"pulling a","digest":"a","total":10,"com');
    write('pleted":4}\n');
    await vi.waitFor(() => expect(first()?.progress.layers.get('a')?.completed).toBe(4));
    write('{"status":"success"}\n');
    await vi.waitFor(() => expect(first()?.state).toBe('complete'));
    await vi.waitFor(() => expect(sent.map(({path}) => path)).toContain('/api/tags'));
  });

  it('fails with the error of Ollama', async () => {
    await start();
    write('{"error":"pull model manifest: file does not exist"}\n');
    await vi.waitFor(() => expect(first()).toMatchObject({state: 'failed', error: 'pull model manifest: file does not exist'}));
  });

  it('fails if it ends without an end', async () => {
    await start();
    write('{"status":"pulling manifest"}\n');
    body.close();
    await vi.waitFor(() => expect(first()?.state).toBe('failed'));
  });

  it('can be cancelled, and removed from the list then', async () => {
    const id = await start();
    dismissPull(id);
    expect(pulls.value).toHaveLength(1);
    cancelPull(id);
    await vi.waitFor(() => expect(first()?.state).toBe('cancelled'));
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
