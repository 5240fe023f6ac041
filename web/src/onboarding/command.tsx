/** Commands to run in a terminal. */
import {signal} from '@preact/signals';
import type {VNode} from 'preact';
import {t} from '../i18n/i18n';
import {CopyButton} from '../ui/copy-button';
import {Tabs} from '../ui/tabs';
import {detectSystem, SYSTEM_NAMES, SYSTEMS, type System} from './system';

/** The system that the instructions are for: that of this browser, until somebody chooses another one. */
export const system = signal<System>(detectSystem(navigator.userAgent));

/** Shows lines for a terminal, with a button that copies them. */
export function Command({text, id}: {readonly text: string; readonly id?: string}): VNode {
  return (
    <div class="command" {...(id ? {id} : {})}>
      {/* A long line scrolls, so the keyboard must reach it. */}
      <pre tabIndex={0} role="group" aria-label={t('onboarding.command')}><code>{text}</code></pre>
      <CopyButton text={text} />
    </div>
  );
}

/** Shows the commands of a system, with tabs that choose it. */
export function CommandsBySystem({commands}: {readonly commands: Readonly<Record<System, string>>}): VNode {
  const tabs = SYSTEMS.map(name => ({name, label: SYSTEM_NAMES[name]}));
  return (
    <Tabs label={t('onboarding.system')} tabs={tabs} selected={system.value} onSelect={name => { system.value = name; }}>
      <Command text={commands[system.value]} />
    </Tabs>
  );
}
