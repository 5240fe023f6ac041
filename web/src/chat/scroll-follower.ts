/** Keeps the end of a list in sight, if the person is there. */
import {signal} from '@preact/signals';

/** So near to the end, in pixels, the person is there. */
const NEAR = 48;
/** Beyond any height: to set it needs no layout. */
const END = 1e9;

/** Whether the person is at the end, after they have scrolled from `before` to `top`. Growth alone does not change it. */
export function isFollowing(wasFollowing: boolean, before: number, top: number, distance: number): boolean {
  if (distance < NEAR) return true;
  return wasFollowing && top >= before - 1;
}

export class ScrollFollower {
  readonly isAtEnd = signal(true);
  #scroller: HTMLElement | null = null;
  #top = 0;

  /** Follows the content of a scroller; returns what ends that. */
  attach(scroller: HTMLElement, content: HTMLElement): () => void {
    this.#scroller = scroller;
    this.#top = scroller.scrollTop;
    const onScroll = (): void => {
      const {scrollTop, scrollHeight, clientHeight} = scroller;
      this.isAtEnd.value = isFollowing(this.isAtEnd.peek(), this.#top, scrollTop, scrollHeight - scrollTop - clientHeight);
      this.#top = scrollTop;
    };
    const observer = new ResizeObserver(() => { if (this.isAtEnd.peek()) this.jump(); });
    observer.observe(content);
    observer.observe(scroller);
    scroller.addEventListener('scroll', onScroll, {passive: true});
    return () => {
      observer.disconnect();
      scroller.removeEventListener('scroll', onScroll);
      this.#scroller = null;
    };
  }

  /** Shows the end, and follows it. */
  jump(): void {
    this.isAtEnd.value = true;
    if (this.#scroller) this.#scroller.scrollTop = END;
  }

  /** Shows the end with the next frame, which computes the layout anyway, and follows it. */
  follow(): void {
    this.isAtEnd.value = true;
    requestAnimationFrame(() => { if (this.isAtEnd.peek()) this.jump(); });
  }

  /** Leaves the end, for something that is to be seen elsewhere. */
  leave(): void {
    this.isAtEnd.value = false;
  }
}
