/** A message to go to, such as a hit of the search. */
import {signal} from '@preact/signals';
import type {Id} from './conversation';

export interface Jump {
  readonly conversation: Id;
  readonly message: Id;
  /** The words to highlight in it. */
  readonly words: readonly string[];
}

/** The chat shows the message (`showMessage` of tree.ts), scrolls to it, and sets this to null. */
export const jump = signal<Jump | null>(null);
