/** The time since something began, every second. */
import {useSignal} from '@preact/signals';
import type {VNode} from 'preact';
import {useEffect} from 'preact/hooks';
import {t} from '../i18n/i18n';
import {formatDuration} from '../ui/format';

/** Says how long the person waits for the model. Screen readers are told without the time, which changes. */
export function WaitingTime({since}: {readonly since: number}): VNode {
  const seconds = useSignal(0);
  useEffect(() => {
    const update = (): void => { seconds.value = Math.max(0, Math.round((Date.now() - since) / 1000)); };
    update();
    const timer = setInterval(update, 1000);
    return () => clearInterval(timer);
  }, [since]);
  // Most models answer within a second. Their first frame does without a formatter of times, which takes long to make.
  const text = seconds.value === 0 ? t('chat.waiting') : t('chat.waitingFor', {time: formatDuration(seconds.value)});
  return <p class="waiting soft">{text}</p>;
}
