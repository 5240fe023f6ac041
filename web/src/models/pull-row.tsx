/** A pull: how far it is, and a button that ends or repeats it. */
import type {VNode} from 'preact';
import {t} from '../i18n/i18n';
import {desktops} from '../status/status-store';
import {IconButton} from '../ui/button';
import {formatBytes, formatDuration} from '../ui/format';
import {Progress} from '../ui/progress';
import {useNow} from '../ui/use-now';
import './models.css';
import {estimateSecondsLeft, measure, measureSpeed} from './pull-progress';
import {cancelPull, dismissPull, startPull, type Pull} from './pull-store';

export function PullRow({pull}: {readonly pull: Pull}): VNode {
  const {id, model, desktop, state} = pull;
  const {total, completed} = measure(pull.progress);
  const isRunning = state === 'running';
  const now = useNow(isRunning ? 1_000 : null);
  const machine = desktops.value?.find(each => each.id === desktop)?.name;
  const title = machine ? t('models.pullOn', {name: model, desktop: machine}) : model;
  return (
    <li class="card pull" data-pull={state}>
      <div class="card-title">
        <span class="card-name"><span>{title}</span></span>
        <span class="card-actions">
          {isRunning && <IconButton icon="stop" label={t('models.cancelPull', {name: model})} onClick={() => cancelPull(id)} />}
          {!isRunning && state !== 'complete' && (
            <IconButton icon="retry" label={t('models.retryPull', {name: model})} onClick={() => startPull(desktop, model)} />
          )}
          {!isRunning && <IconButton icon="close" label={t('models.dismissPull', {name: model})} onClick={() => dismissPull(id)} />}
        </span>
      </div>
      {isRunning && <Progress label={title} value={total > 0 ? completed / total : null} />}
      <p class={state === 'failed' || state === 'interrupted' ? 'error' : 'soft'} {...(isRunning ? {} : {role: 'status'})}>{describePull(pull, now)}</p>
    </li>
  );
}

/** Returns how far a pull is; `now` is in epoch milliseconds. */
export function describePull({state, progress, error}: Pull, now: number): string {
  if (state === 'complete') return t('models.pullComplete');
  if (state === 'cancelled') return t('models.pullCancelled');
  if (state === 'failed') return t('models.pullFailed', {reason: error});
  if (state === 'interrupted') return t('models.pullBroken');
  const {total, completed} = measure(progress);
  if (total === 0 || completed === total) return progress.status || t('models.pullStarting');
  const speed = measureSpeed(progress, now);
  const left = estimateSecondsLeft(progress, now);
  return [
    t('models.pullProgress', {completed: formatBytes(completed), total: formatBytes(total)}),
    speed ? t('models.pullSpeed', {speed: formatBytes(speed)}) : '',
    left === null ? '' : t('models.pullLeft', {time: formatDuration(left)}),
  ].filter(Boolean).join(' · ');
}
