/** What is shown while the server cannot say who is logged in, and nobody was before. */
import type {VNode} from 'preact';
import {t} from '../i18n/i18n';
import {startProblem, startSession} from '../session/login-flow';
import {Countdown} from './countdown';

export function CannotStart(): VNode | null {
  const problem = startProblem.value;
  if (!problem) return null;
  return (
    <section id="cannot-start" class="screen" aria-labelledby="cannot-start-title">
      <h1 id="cannot-start-title">{t('onboarding.unreachable.title')}</h1>
      <p role="status">{problem.message}</p>
      <p><Countdown until={problem.retryAt} /></p>
      <div><button type="button" class="main" onClick={() => void startSession()}>{t('onboarding.tryNow')}</button></div>
    </section>
  );
}
