import {describe, expect, it} from 'vitest';
import {readJson, RequestError, withTimeout} from './http';

it('ends a request on a dead connection after some time', async () => {
  const never = ({signal}: {readonly signal?: AbortSignal | undefined}): Promise<never> =>
    new Promise((_, reject) => signal?.addEventListener('abort', () => reject(signal.reason as Error)));
  await expect(withTimeout({}, never, 10)).rejects.toBeInstanceOf(RequestError);
  const leaving = new AbortController();
  const left = withTimeout({signal: leaving.signal}, never, 10_000);
  leaving.abort(new Error('left'));
  await expect(left).rejects.toThrow('left');
  await expect(withTimeout({}, async () => 'in time', 10)).resolves.toBe('in time');
});

describe('the JSON of a response', () => {
  const failing = (error: Error): Response => new Response(new ReadableStream({start: controller => controller.error(error)}));

  it.each([new Response('{"a": 1'), failing(new TypeError('network error'))])('that breaks off is a failed request', async response => {
    await expect(readJson(response)).rejects.toBeInstanceOf(RequestError);
  });

  it('that nobody waits for any more is none', async () => {
    await expect(readJson(failing(new DOMException('left', 'AbortError')))).rejects.toThrow('left');
  });
});
