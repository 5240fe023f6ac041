/** The width of the window, as far as the frame depends on it. */
import {signal} from '@preact/signals';

const narrow = matchMedia('(max-width: 48rem)');

/** Whether the sidebar is a drawer. */
export const isNarrow = signal(narrow.matches);

narrow.addEventListener('change', event => { isNarrow.value = event.matches; });
