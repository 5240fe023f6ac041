import {afterEach, beforeEach, expect, it, vi} from 'vitest';
import {ScrollFollower} from './scroll-follower';

let frames: FrameRequestCallback[];
let scroller: HTMLElement;
let follower: ScrollFollower;

beforeEach(() => {
  frames = [];
  vi.stubGlobal('ResizeObserver', class { observe(): void {} disconnect(): void {} });
  vi.stubGlobal('requestAnimationFrame', (work: FrameRequestCallback) => frames.push(work));
  scroller = document.createElement('div');
  follower = new ScrollFollower();
  follower.attach(scroller, document.createElement('div'));
});
afterEach(() => void vi.unstubAllGlobals());

it('shows the end with the next frame: to scroll at once would compute the layout once more', () => {
  follower.leave();
  follower.follow();
  expect([follower.isAtEnd.value, scroller.scrollTop]).toEqual([true, 0]);
  for (const frame of frames) frame(0);
  expect(scroller.scrollTop).toBeGreaterThan(0);
});

it('stays where the person goes before that frame', () => {
  follower.follow();
  follower.leave();
  for (const frame of frames) frame(0);
  expect(scroller.scrollTop).toBe(0);
});
