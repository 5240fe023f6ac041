/** The models of all desktops: list, pull, show, delete. */
import type {VNode} from 'preact';

export default function ModelsView(): VNode {
  return <section id="models-view" />;
}
