/** A button that copies a text. */
import {useSignal} from '@preact/signals';
import type {VNode} from 'preact';
import {useEffect, useRef} from 'preact/hooks';
import {t} from '../i18n/i18n';
import {copyText} from './clipboard';
import {Icon} from './icon';
import './ui.css';

interface CopyButtonProperties {
  readonly text: string | (() => string);
  /** What is copied, for screen readers; by default "Copy". */
  readonly label?: string;
  /** Whether the word is shown beside the icon. */
  readonly showsWord?: boolean;
}

const SHOWN_MS = 2_000;

export function CopyButton({text, label, showsWord = false}: CopyButtonProperties): VNode {
  const outcome = useSignal<'none' | 'copied' | 'failed'>('none');
  const timer = useRef(0);
  useEffect(() => () => clearTimeout(timer.current), []);
  const copy = async (): Promise<void> => {
    const isCopied = await copyText(typeof text === 'string' ? text : text());
    outcome.value = isCopied ? 'copied' : 'failed';
    clearTimeout(timer.current);
    timer.current = window.setTimeout(() => { outcome.value = 'none'; }, SHOWN_MS);
  };
  const word = {none: t('app.copy'), copied: t('app.copied'), failed: t('app.copyFailed')}[outcome.value];
  const name = label ?? t('app.copy');
  return (
    <button type="button" class={`plain copy ${showsWord ? 'with-icon' : 'icon-button'}`} title={name} aria-label={name} onClick={() => void copy()}>
      <Icon name={outcome.value === 'copied' ? 'check' : outcome.value === 'failed' ? 'warning' : 'copy'} />
      {showsWord && word}
      <span class="visually-hidden" role="status">{outcome.value === 'none' ? '' : word}</span>
    </button>
  );
}
