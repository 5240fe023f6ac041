/** What is shown while the server cannot say who is logged in, and nobody was before. */
import {useSignal} from '@preact/signals';
import type {VNode} from 'preact';
import {useEffect} from 'preact/hooks';
import {t} from '../i18n/i18n';
import {startProblem, startSession} from '../session/login-flow';

export function CannotStart(): VNode | null {
  const problem = startProblem.value;
  if (!problem) return null;
  return (
    <section id="cannot-start" class="screen" aria-labelledby="cannot-start-title">
      <h1 id="cannot-start-title">{t('onboarding.unreachable.title')}</h1>
      <p role="status">{problem.message}</p>
      <p class="soft"><Countdown until={problem.retryAt} /></p>
      <div><button type="button" class="main" onClick={() => void startSession()}>{t('onboarding.tryNow')}</button></div>
    </section>
  );
}

/** Says how many seconds are left; screen readers are not told each second. */
export function Countdown({until}: {readonly until: number}): VNode {
  const seconds = useSignal(secondsUntil(until));
  useEffect(() => {
    seconds.value = secondsUntil(until);
    const timer = setInterval(() => { seconds.value = secondsUntil(until); }, 1000);
    return () => clearInterval(timer);
  }, [until]);
  return <>{seconds.value > 0 ? t('onboarding.retryIn', {seconds: seconds.value}) : t('onboarding.retrying')}</>;
}

function secondsUntil(time: number): number {
  return Math.max(0, Math.ceil((time - Date.now()) / 1000));
}
