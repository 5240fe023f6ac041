/** What is stored where, and who can read it. */
import type {VNode} from 'preact';

export default function PrivacyView(): VNode {
  return <section id="privacy" />;
}
