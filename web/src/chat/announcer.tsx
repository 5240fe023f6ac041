/** Tells screen readers what arrives, by sentences. */
import {effect, useSignal} from '@preact/signals';
import type {VNode} from 'preact';
import {useEffect} from 'preact/hooks';
import type {Answer} from './answer';
import {asSpoken, endOfSentences} from './sentences';

const PAUSE_MS = 2_000;

/** Announces the answer in progress; what was there before is not read out. */
export function Announcer({answer}: {readonly answer: Answer | undefined}): VNode {
  const spoken = useSignal('');
  useEffect(() => {
    if (!answer) return;
    let from = answer.content.peek().length;
    let timer = 0;
    const announce = (isLast = false): void => {
      timer = 0;
      const text = answer.content.peek();
      const to = isLast ? text.length : endOfSentences(text, from);
      const words = asSpoken(text.slice(from, to));
      from = to;
      if (words) spoken.value = words;
    };
    const stop = effect(() => {
      if (answer.content.value.length > from && timer === 0) timer = window.setTimeout(announce, PAUSE_MS);
    });
    return () => {
      stop();
      clearTimeout(timer);
      announce(true);
    };
  }, [answer]);
  return <div class="visually-hidden" role="log" aria-live="polite" aria-atomic="true">{spoken.value}</div>;
}
