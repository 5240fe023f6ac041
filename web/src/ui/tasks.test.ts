import {afterEach, beforeEach, describe, expect, it, vi} from 'vitest';
import {afterFrame, nextTask, whenIdle} from './tasks';

/** Resolves after the messages that were posted before. */
const settle = (): Promise<void> => new Promise(resolve => setTimeout(resolve, 5));

describe('work after a frame', () => {
  let frames: (() => void)[] = [];
  const isHidden = vi.spyOn(document, 'visibilityState', 'get');

  beforeEach(() => {
    frames = [];
    isHidden.mockReturnValue('visible');
    vi.stubGlobal('requestAnimationFrame', (work: () => void) => frames.push(work));
    vi.stubGlobal('cancelAnimationFrame', (frame: number) => { frames[frame - 1] = () => {}; });
  });
  afterEach(() => void vi.unstubAllGlobals());

  it('is done in a task after that of the frame', async () => {
    const work = vi.fn();
    afterFrame(work);
    await settle();
    expect(frames).toHaveLength(1);
    frames[0]?.();
    expect(work).not.toHaveBeenCalled();
    await settle();
    expect(work).toHaveBeenCalledOnce();
  });

  it('can be cancelled before and after the frame', async () => {
    const work = vi.fn();
    afterFrame(work)();
    frames[0]?.();
    const cancel = afterFrame(work);
    frames[1]?.();
    cancel();
    await settle();
    expect(work).not.toHaveBeenCalled();
  });

  it('needs no frame in a page that nobody sees', () => {
    vi.useFakeTimers();
    isHidden.mockReturnValue('hidden');
    const work = vi.fn();
    afterFrame(work);
    afterFrame(work)();
    vi.advanceTimersByTime(1000);
    vi.useRealTimers();
    expect(frames).toHaveLength(0);
    expect(work).toHaveBeenCalledOnce();
  });
});

it('lets other tasks go first', async () => {
  const order: string[] = [];
  const {port1, port2} = new MessageChannel();
  port2.onmessage = () => {
    port2.close();
    order.push('other');
  };
  port1.postMessage(null);
  await nextTask();
  order.push('next');
  expect(order).toEqual(['other', 'next']);
});

describe('work that can wait', () => {
  afterEach(() => {
    vi.useRealTimers();
    vi.unstubAllGlobals();
  });

  it('is done when the browser has nothing else to do, unless it is cancelled', () => {
    const idle: (() => void)[] = [];
    vi.stubGlobal('requestIdleCallback', (work: () => void) => idle.push(work));
    vi.stubGlobal('cancelIdleCallback', (handle: number) => { idle[handle - 1] = () => {}; });
    const [done, cancelled] = [vi.fn(), vi.fn()];
    whenIdle(done);
    whenIdle(cancelled)();
    expect(done).not.toHaveBeenCalled();
    for (const each of idle) each();
    expect([done.mock.calls.length, cancelled.mock.calls.length]).toEqual([1, 0]);
  });

  it('is done after a while in a browser that does not say so', () => {
    vi.useFakeTimers({toFake: ['setTimeout', 'clearTimeout']});
    const [done, cancelled] = [vi.fn(), vi.fn()];
    whenIdle(done);
    whenIdle(cancelled)();
    vi.advanceTimersByTime(2_000);
    expect([done.mock.calls.length, cancelled.mock.calls.length]).toEqual([1, 0]);
  });
});
