/** Tells screen readers what arrives, by sentences, and how it ended. */
import {effect, useSignal} from '@preact/signals';
import type {VNode} from 'preact';
import {useEffect, useLayoutEffect} from 'preact/hooks';
import {t} from '../i18n/i18n';
import type {Answer} from './answer';
import {isEnd, type End} from './generation-state';
import {asSpoken, endOfSentences} from './sentences';

const PAUSE_MS = 2_000;

interface AnnouncerProperties {
  readonly conversation: string;
  readonly answer: Answer | undefined;
}

/** Announces the answer in progress; what was there before is not read out. */
export function Announcer({conversation, answer}: AnnouncerProperties): VNode {
  const spoken = useSignal('');
  // Who reads the page on finds no answer of another conversation.
  useLayoutEffect(() => { spoken.value = ''; }, [conversation]);
  useEffect(() => {
    if (!answer) return;
    spoken.value = ''; // so that the same words are announced again
    let from = answer.content.peek().length;
    let timer = 0;
    const takeUntil = (text: string, to: number): string => {
      const words = asSpoken(text.slice(from, to));
      from = to;
      return words;
    };
    const announce = (): void => {
      timer = 0;
      const text = answer.content.peek();
      spoken.value = takeUntil(text, endOfSentences(text, from)) || spoken.peek();
    };
    const stop = effect(() => {
      const phase = answer.phase.value;
      if (isEnd(phase)) {
        clearTimeout(timer);
        const text = answer.parts.content;
        spoken.value = `${takeUntil(text, text.length)} ${describeEnd(phase, answer.reason.peek())}`.trim();
      } else if (answer.content.value.length > from && timer === 0) {
        timer = window.setTimeout(announce, PAUSE_MS);
      }
    });
    return () => {
      stop();
      clearTimeout(timer);
    };
  }, [answer]);
  return <div class="visually-hidden" role="log" aria-live="polite" aria-atomic="true">{spoken.value}</div>;
}

function describeEnd(end: End, reason: string): string {
  if (end === 'complete') return t('chat.complete');
  if (end === 'stopped') return t('chat.stopped');
  return t('chat.incomplete', {reason: reason && t('chat.error', {reason})});
}
