import {expect, it} from 'vitest';
import {RequestError, withTimeout} from './http';

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
