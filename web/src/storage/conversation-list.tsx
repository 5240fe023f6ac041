/** The list of conversations in the sidebar, and the search over them. */
import type {VNode} from 'preact';

export function ConversationList(): VNode {
  return <div class="conversations" />;
}
