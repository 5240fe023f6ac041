/** The path of this connection, the desktops and the proxy. */
import type {VNode} from 'preact';

export default function StatusView(): VNode {
  return <section id="status-view" />;
}
