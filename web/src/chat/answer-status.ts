/** What is said of an answer in progress. */
import {t, type TextKey} from '../i18n/i18n';
import {formatDuration} from '../ui/format';
import type {Answer} from './answer';

/** So long a connection may be away before more is said than that. */
export const SILENCE_MS = 120_000;

/** Returns the sentence for how far an answer is; reads its signals. */
export function describeProgress(answer: Answer): TextKey {
  if (answer.silentSince.value !== null) return isUnsent(answer) ? 'chat.notSent' : 'chat.reconnecting';
  if (answer.content.value !== '') return 'chat.receiving';
  return answer.thinking.value === '' ? 'chat.waiting' : 'chat.isThinking';
}

/** Whether the desktop has not answered for so long that the person should decide; reads the signals of the answer. */
export function isSilent(answer: Answer, now: number): boolean {
  return answer.silentSince.value !== null && now - answer.silentSince.value >= SILENCE_MS;
}

/** Returns the sentences for an answer that is interrupted; '' for one that is not. Whole minutes, so that they rest. */
export function describeInterruption(answer: Answer, now: number): string {
  const since = answer.silentSince.value;
  if (since === null) return '';
  if (!isSilent(answer, now)) return [t(describeProgress(answer)), answer.reason.value].filter(Boolean).join(' ');
  const time = formatDuration(Math.floor((now - since) / 60_000) * 60);
  return [t('chat.silent', {time}), t(isUnsent(answer) ? 'chat.silentUnsent' : 'chat.silentContinues'), answer.reason.value].filter(Boolean).join(' ');
}

function isUnsent({phase}: Answer): boolean {
  return phase.value === 'postponed' || phase.value === 'starting';
}
