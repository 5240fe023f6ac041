/** What is shown in place of a chat while something is missing, with one thing to do about it. */
import type {VNode} from 'preact';

/** Returns the screen for what is missing, or null if nothing is. */
export function Welcome(): VNode | null {
  return null;
}
