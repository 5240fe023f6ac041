/** Short messages about what has just happened. Screen readers announce them. */
import {signal} from '@preact/signals';
import type {VNode} from 'preact';
import {t} from '../i18n/i18n';
import {IconButton} from './button';
import './ui.css';

interface Toast {
  readonly id: number;
  readonly text: string;
  readonly kind: 'info' | 'error';
}

const MAX_TOASTS = 3;
const INFO_MS = 6_000;
const ERROR_MS = 15_000;

const toasts = signal<readonly Toast[]>([]);
let lastId = 0;

/** Shows a sentence for some seconds. */
export function showToast(text: string, kind: Toast['kind'] = 'info'): void {
  const id = ++lastId;
  toasts.value = [...toasts.value.filter(each => each.text !== text), {id, text, kind}].slice(-MAX_TOASTS);
  setTimeout(() => dismiss(id), kind === 'error' ? ERROR_MS : INFO_MS);
}

/** Removes all messages. */
export function clearToasts(): void {
  if (toasts.peek().length > 0) toasts.value = [];
}

function dismiss(id: number): void {
  if (toasts.value.some(each => each.id === id)) toasts.value = toasts.value.filter(each => each.id !== id);
}

/** Shows the messages. The page has one of these. */
export function Toasts(): VNode {
  return (
    <div class="toasts" role="status">
      {toasts.value.map(({id, text, kind}) => (
        <div key={id} class={`toast ${kind}`}>
          <p>{text}</p>
          <IconButton icon="close" label={t('app.close')} onClick={() => dismiss(id)} />
        </div>
      ))}
    </div>
  );
}
