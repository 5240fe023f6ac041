/** The settings of the person and of this browser. */
import type {VNode} from 'preact';

export default function SettingsView(): VNode {
  return <section id="settings" />;
}
