import {act} from 'preact/test-utils';
import {afterEach, describe, expect, it, vi} from 'vitest';
import {find, settle, show} from './testing';
import {Lazy} from './lazy';

const RELOADED = 'ctllm-reloaded';
const notLoaded = (): Element | null => document.querySelector('#not-loaded');
/** Whether the page has noted that it reloads itself, which jsdom does not do. */
const hasReloaded = (): boolean => sessionStorage.getItem(RELOADED) !== null;

afterEach(async () => {
  await show(null);
  sessionStorage.clear();
  vi.restoreAllMocks();
});

async function fail(): Promise<void> {
  await show(<Lazy load={() => Promise.reject(new Error('gone'))} />);
  await settle();
}

describe('a part that is missing, because the server has a newer page', () => {
  it('reloads the page once, and is said to be missing if it still is', async () => {
    await fail();
    expect([hasReloaded(), notLoaded()]).toEqual([true, null]);
    await show(null);
    await fail();
    expect(notLoaded()).not.toBeNull();
  });

  it('reloads nothing while there is no network', async () => {
    vi.spyOn(navigator, 'onLine', 'get').mockReturnValue(false);
    await fail();
    expect([hasReloaded(), notLoaded() !== null]).toEqual([false, true]);
  });

  it('reloads nothing while a message is written', async () => {
    await show(<><textarea id="message">Dear model</textarea><Lazy load={() => Promise.reject(new Error('gone'))} /></>);
    await settle();
    expect([hasReloaded(), notLoaded() !== null]).toEqual([false, true]);
  });

  it('reloads nothing while a file is attached', async () => {
    await show(<><form id="composer"><ul class="attachments" /></form><Lazy load={() => Promise.reject(new Error('gone'))} /></>);
    await settle();
    expect([hasReloaded(), notLoaded() !== null]).toEqual([false, true]);
  });

  it('reloads nothing in a browser that keeps nothing: it would do so for ever', async () => {
    vi.spyOn(Storage.prototype, 'setItem').mockImplementation(() => { throw new DOMException('', 'QuotaExceededError'); });
    await fail();
    expect(notLoaded()).not.toBeNull();
  });
});

it('a part that is loaded is shown, and another one may reload the page again', async () => {
  sessionStorage.setItem(RELOADED, '1');
  await show(<Lazy load={() => Promise.resolve({default: () => <p id="part">Here</p>})} />);
  await settle();
  expect([find('#part').textContent, sessionStorage.getItem(RELOADED)]).toEqual(['Here', null]);
});

it('a part that comes when nobody waits for it any more is not shown', async () => {
  let resolve = (_: {default: () => null}): void => {};
  const first = (): Promise<{default: () => null}> => new Promise(done => { resolve = done; });
  await show(<Lazy load={first} />);
  const second = (): Promise<{default: () => preact.JSX.Element}> => Promise.resolve({default: () => <p id="second" />});
  await show(<Lazy load={second} />);
  await settle();
  await act(() => resolve({default: () => null}));
  await settle();
  expect(document.querySelector('#second')).not.toBeNull();
});
