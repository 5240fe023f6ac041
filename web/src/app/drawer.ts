/** Whether the sidebar is open where it covers the view: on narrow screens. */
import {effect, signal} from '@preact/signals';
import {route} from './router';

/** The same width as in layout.css. */
const NARROW = '(max-width: 48rem)';

export const isDrawerOpen = signal(false);

/** Closes the drawer with Escape, when another view is shown, and when the screen becomes wide. Returns a function that ends this. */
export function watchDrawer(): () => void {
  const narrow = matchMedia(NARROW);
  const close = (): void => { isDrawerOpen.value = false; };
  const onKeyDown = (event: KeyboardEvent): void => {
    if (event.key === 'Escape' && !event.defaultPrevented && !document.querySelector('dialog[open]')) close();
  };
  const closeForView = effect(() => {
    void route.value;
    close();
  });
  narrow.addEventListener('change', close);
  document.addEventListener('keydown', onKeyDown);
  return () => {
    closeForView();
    narrow.removeEventListener('change', close);
    document.removeEventListener('keydown', onKeyDown);
  };
}
