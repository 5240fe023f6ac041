/** Moves the focus to the heading of a view that has just been shown, so that a screen reader begins there. */
import {effect} from '@preact/signals';
import {formatRoute, route} from './router';

const MAX_WAIT_MS = 5_000;

/** Focuses the first heading in `main` once there is one; returns how to give up. */
export function focusHeading(main: HTMLElement): () => void {
  const before = document.activeElement;
  const stop = (): void => {
    observer.disconnect();
    clearTimeout(timer);
  };
  const tryToFocus = (): void => {
    const isElsewhere = ![before, document.body, main].includes(document.activeElement);
    if (isElsewhere) return stop(); // the view has focused something itself, or the person has
    const heading = main.querySelector<HTMLElement>('h1');
    if (!heading || heading.closest('[hidden]')) return;
    stop();
    heading.tabIndex = -1;
    heading.focus();
  };
  const observer = new MutationObserver(tryToFocus);
  observer.observe(main, {childList: true, subtree: true});
  const timer = setTimeout(stop, MAX_WAIT_MS);
  // The new view is rendered after this.
  requestAnimationFrame(tryToFocus);
  return stop;
}

/** Follows the route until the returned function is called. */
export function watchViewFocus(main: HTMLElement): () => void {
  let shown: string | null = null;
  let stop = (): void => undefined;
  const stopWatching = effect(() => {
    const next = formatRoute(route.value);
    const isFirst = shown === null;
    shown = next;
    if (isFirst) return;
    stop();
    stop = focusHeading(main);
  });
  return () => {
    stopWatching();
    stop();
  };
}
