/** A conversation, and the form for the next message. */
import type {VNode} from 'preact';

export function ChatView(): VNode {
  return <section id="chat" />;
}
