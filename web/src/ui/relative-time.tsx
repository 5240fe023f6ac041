/** A time as seen from now, such as "5 minutes ago", which stays true. */
import type {VNode} from 'preact';
import {formatRelativeTime, formatTime} from './format';
import {useNow} from './use-now';

const UPDATE_MS = 10_000;
/** While a time is shown in seconds. */
const FAST_UPDATE_MS = 1_000;

/** `time` is in epoch milliseconds. */
export function RelativeTime({time}: {readonly time: number}): VNode {
  const now = useNow(Math.abs(time - Date.now()) < 60_000 ? FAST_UPDATE_MS : UPDATE_MS);
  return <time dateTime={new Date(time).toISOString()} title={formatTime(time)}>{formatRelativeTime(time, now)}</time>;
}
