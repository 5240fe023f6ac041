/** A time as seen from now, such as "5 minutes ago", which stays true. */
import {signal} from '@preact/signals';
import type {VNode} from 'preact';
import {useEffect} from 'preact/hooks';
import {formatRelativeTime, formatTime} from './format';

const UPDATE_MS = 10_000;

const now = signal(Date.now());
let shown = 0;
let timer = 0;

/** Keeps `now` current while something shows it. */
function useNow(): number {
  useEffect(() => {
    if (shown++ === 0) {
      now.value = Date.now();
      timer = window.setInterval(() => { now.value = Date.now(); }, UPDATE_MS);
    }
    return () => { if (--shown === 0) clearInterval(timer); };
  }, []);
  return now.value;
}

/** `time` is in epoch milliseconds. */
export function RelativeTime({time}: {readonly time: number}): VNode {
  const seen = useNow();
  return <time dateTime={new Date(time).toISOString()} title={formatTime(time)}>{formatRelativeTime(time, seen)}</time>;
}
