import {afterEach, beforeEach, expect, it, vi} from 'vitest';
import {until} from '../ui/testing';
import {isUpdateReady, watchUpdates} from './page-update';

const ENTRY = 'https://cloud.example/assets/shell-1.js';
const HOUR_MS = 60 * 60 * 1000;

/** The service workers of a page: one that controls it, if `controller` is given, and one that is registered. */
class Workers extends EventTarget {
  controller: {postMessage: (path: string, ports: readonly MessagePort[]) => void} | null = null;
  readonly update = vi.fn(async (): Promise<void> => {});
  /** A promise of `update` itself counts as handled: the mock looks at it, too. */
  readonly register = vi.fn(async (_path: string, _options: object) => ({update: async () => this.update()}));
  readonly asked: string[] = [];

  /** Lets a worker control the page that is of the same version as it, or not. */
  control(isSame: boolean): void {
    this.controller = {postMessage: (path, [port]) => {
      this.asked.push(path);
      port?.postMessage(isSame);
    }};
  }
}

let workers: Workers;
let stop = (): void => {};

beforeEach(() => {
  workers = new Workers();
  vi.useFakeTimers({toFake: ['setInterval', 'clearInterval']});
  Object.defineProperty(navigator, 'serviceWorker', {value: workers, configurable: true});
});
afterEach(() => {
  stop();
  isUpdateReady.value = false;
  vi.useRealTimers();
  vi.restoreAllMocks();
  Reflect.deleteProperty(navigator, 'serviceWorker');
});

/** Watches, until the worker is registered. */
async function watch(): Promise<void> {
  stop = watchUpdates(ENTRY);
  await Promise.resolve();
}

const hide = (isHidden: boolean): void => {
  vi.spyOn(document, 'hidden', 'get').mockReturnValue(isHidden);
  document.dispatchEvent(new Event('visibilitychange'));
};

it('asks the worker that controls the page whether it is of the same version', async () => {
  workers.control(false);
  await watch();
  await until(() => expect(isUpdateReady.value).toBe(true));
  expect(workers.asked).toEqual(['/assets/shell-1.js']);
  expect(workers.register.mock.calls).toEqual([[new URL('/service-worker.js', location.href).href, {updateViaCache: 'none'}]]);
});

it('finds a new version when a new worker takes over, and none when it is the same', async () => {
  await watch();
  for (const isSame of [false, true]) {
    workers.control(isSame);
    workers.dispatchEvent(new Event('controllerchange'));
    await until(() => expect(isUpdateReady.value).toBe(!isSame));
  }
});

it('finds none without a worker that controls the page', async () => {
  isUpdateReady.value = true;
  await watch();
  await until(() => expect(isUpdateReady.value).toBe(false));
});

it('asks the server every hour, and when the page is seen again; never while it is hidden', async () => {
  await watch();
  vi.advanceTimersByTime(HOUR_MS);
  expect(workers.update).toHaveBeenCalledTimes(1);
  hide(true);
  vi.advanceTimersByTime(HOUR_MS);
  expect(workers.update).toHaveBeenCalledTimes(1);
  hide(false);
  expect(workers.update).toHaveBeenCalledTimes(2);
});

it('goes on without a network', async () => {
  workers.update.mockRejectedValue(new TypeError('There is no network.'));
  await watch();
  vi.advanceTimersByTime(2 * HOUR_MS);
  expect(workers.update).toHaveBeenCalledTimes(2);
});

it('asks nothing after its end', async () => {
  await watch();
  stop();
  vi.advanceTimersByTime(HOUR_MS);
  hide(false);
  workers.control(false);
  workers.dispatchEvent(new Event('controllerchange'));
  expect(workers.update).not.toHaveBeenCalled();
  expect(workers.asked).toEqual([]);
});

it('does without a worker where the browser forbids it, or has none', async () => {
  workers.register.mockRejectedValue(new DOMException('Insecure.', 'SecurityError'));
  await watch();
  vi.advanceTimersByTime(HOUR_MS);
  expect(workers.update).not.toHaveBeenCalled();
  stop();
  Reflect.deleteProperty(navigator, 'serviceWorker');
  stop = watchUpdates(ENTRY);
  expect(isUpdateReady.value).toBe(false);
});
