/** Who is logged in, and the dialogs about logging in. */
import type {VNode} from 'preact';

export function Account(): VNode {
  return <div id="account" />;
}
