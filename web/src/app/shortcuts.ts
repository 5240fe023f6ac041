/** Keyboard shortcuts of the whole page. */
import {signal} from '@preact/signals';
import type {TextKey} from '../i18n/i18n';
import {isLoggedIn} from '../session/session';
import {navigate} from './router';

/** Whether the list of the shortcuts is shown. */
export const showsShortcuts = signal(false);

interface Shortcut {
  /** As it is shown. */
  readonly keys: readonly string[];
  readonly label: TextKey;
  /** What it does; without it, the component that has the focus does it. */
  readonly run?: () => void;
}

/** Those with `run` are a single letter, which does nothing while somebody writes. */
export const SHORTCUTS: readonly Shortcut[] = [
  {keys: ['N'], label: 'app.shortcut.newChat', run: () => navigate('chat')},
  {keys: ['/'], label: 'app.shortcut.message', run: () => focusElement('message')},
  {keys: ['K'], label: 'app.shortcut.search', run: () => focusElement('search')},
  {keys: ['M'], label: 'app.shortcut.models', run: () => navigate('models')},
  {keys: ['S'], label: 'app.shortcut.status', run: () => navigate('status')},
  {keys: [','], label: 'app.shortcut.settings', run: () => navigate('settings')},
  {keys: ['?'], label: 'app.shortcut.list', run: () => { showsShortcuts.value = true; }},
  {keys: ['Enter'], label: 'app.shortcut.send'},
  {keys: ['Shift', 'Enter'], label: 'app.shortcut.newLine'},
  {keys: ['Esc'], label: 'app.shortcut.close'},
];

/** Only these are possible while nobody is logged in. */
const FOR_EVERYBODY = ['?', 'S'];

function focusElement(id: string): void {
  document.getElementById(id)?.focus();
}

/** Returns what a key does, or null: nothing with a modifier, in a field, or over a dialog. */
export function findShortcut(event: Pick<KeyboardEvent, 'key' | 'ctrlKey' | 'metaKey' | 'altKey' | 'isComposing' | 'target'>): (() => void) | null {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return null;
  if (isField(event.target) || document.querySelector('dialog[open]')) return null;
  const key = event.key.toUpperCase();
  const found = SHORTCUTS.find(({keys, run}) => run && keys.length === 1 && keys[0] === key);
  const isPossible = isLoggedIn.value || FOR_EVERYBODY.includes(key);
  return (isPossible && found?.run) || null;
}

function isField(target: EventTarget | null): boolean {
  return target instanceof HTMLElement && (target.isContentEditable || target.matches('input, textarea, select, [role=menuitem], [role=tab]'));
}

/** Listens to the keyboard until the returned function is called. */
export function watchShortcuts(): () => void {
  const onKeyDown = (event: KeyboardEvent): void => {
    if (event.defaultPrevented) return;
    const run = findShortcut(event);
    if (!run) return;
    event.preventDefault();
    run();
  };
  document.addEventListener('keydown', onKeyDown);
  return () => document.removeEventListener('keydown', onKeyDown);
}
