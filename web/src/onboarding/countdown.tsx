/** Seconds until something happens. */
import {useSignal} from '@preact/signals';
import type {VNode} from 'preact';
import {useEffect} from 'preact/hooks';
import {t} from '../i18n/i18n';

/** Says when it is tried again; screen readers are not told each second. */
export function Countdown({until}: {readonly until: number}): VNode {
  const seconds = useSecondsUntil(until);
  return <span class="soft">{seconds > 0 ? t('onboarding.retryIn', {seconds}) : t('onboarding.retrying')}</span>;
}

/** Returns the whole seconds that are left, at least 0, and keeps them current. */
export function useSecondsUntil(time: number): number {
  const seconds = useSignal(secondsUntil(time));
  useEffect(() => {
    seconds.value = secondsUntil(time);
    const timer = setInterval(() => { seconds.value = secondsUntil(time); }, 1000);
    return () => clearInterval(timer);
  }, [time]);
  return seconds.value;
}

function secondsUntil(time: number): number {
  return Math.max(0, Math.ceil((time - Date.now()) / 1000));
}
