/** Offers to pull a first model, of one of three sizes. */
import {useSignal} from '@preact/signals';
import type {VNode} from 'preact';
import {useEffect} from 'preact/hooks';
import {t, type TextKey} from '../i18n/i18n';
import {estimateSecondsLeft, measure} from '../models/pull-progress';
import {cancelPull, dismissPull, pulls, startPull, type Pull} from '../models/pull-store';
import {bestDesktop, refreshStatus} from '../status/status-store';
import {Button} from '../ui/button';
import {formatBytes, formatDuration} from '../ui/format';
import {Progress} from '../ui/progress';
import {Screen} from './screen';

interface Choice {
  readonly model: string;
  /** Of the download, in bytes. */
  readonly size: number;
  /** Of memory that the machine should have free, in bytes. */
  readonly memory: number;
  readonly label: TextKey;
}

/** Sizes are those of Ollama's library, rounded. */
const CHOICES: readonly Choice[] = [
  {model: 'gemma3:1b', size: 0.8e9, memory: 2e9, label: 'onboarding.model.small'},
  {model: 'gemma3:4b', size: 3.3e9, memory: 6e9, label: 'onboarding.model.medium'},
  {model: 'gemma3:12b', size: 8.1e9, memory: 12e9, label: 'onboarding.model.large'},
];

export function NoModel(): VNode | null {
  const desktop = bestDesktop.value;
  if (!desktop) return null;
  return (
    <Screen id="no-model" title={t('onboarding.model.title', {name: desktop.name})}>
      <p>{t('onboarding.model.what')}</p>
      <FirstModel />
    </Screen>
  );
}

/** The choice of a model, or how far it is pulled. */
export function FirstModel(): VNode | null {
  const desktop = bestDesktop.value;
  if (!desktop) return null;
  const pull = pulls.value.find(each => each.desktop === desktop.id && each.state !== 'cancelled');
  if (pull?.state === 'interrupted') return <Interrupted pull={pull} />;
  return pull && pull.state !== 'failed' ? <PullInProgress pull={pull} /> : <Choose desktop={desktop.id} error={pull ? pull.error : ''} />;
}

function Choose({desktop, error}: {readonly desktop: string; readonly error: string}): VNode {
  const chosen = useSignal(CHOICES[0]?.model ?? '');
  const pull = (event: SubmitEvent): void => {
    event.preventDefault();
    startPull(desktop, chosen.value);
  };
  return (
    <form class="stack" onSubmit={pull}>
      {error && <p class="error" role="alert">{error}</p>}
      <fieldset class="choices">
        <legend>{t('onboarding.model.choose')}</legend>
        {CHOICES.map(({model, size, memory, label}) => (
          <label key={model} class="choice">
            <input type="radio" name="model" value={model} checked={chosen.value === model} onChange={() => { chosen.value = model; }} />
            <span><strong>{t(label)}</strong> <code>{model}</code><br />
              <span class="soft">{t('onboarding.model.size', {size: formatBytes(size), memory: formatBytes(memory)})}</span>
            </span>
          </label>
        ))}
      </fieldset>
      <Button id="pull-first" type="submit" kind="main" icon="download">{t('onboarding.model.pull')}</Button>
    </form>
  );
}

/** A pull that ended with the page, or with its connection: Ollama has what was downloaded. */
function Interrupted({pull: {id, desktop, model}}: {readonly pull: Pull}): VNode {
  return (
    <div class="stack">
      <p role="alert">{t('onboarding.model.interrupted', {model})}</p>
      <div class="buttons start">
        <Button id="resume-pull" kind="main" icon="download" onClick={() => startPull(desktop, model)}>{t('onboarding.model.resume')}</Button>
        <Button onClick={() => dismissPull(id)}>{t('onboarding.model.other')}</Button>
      </div>
    </div>
  );
}

function PullInProgress({pull}: {readonly pull: Pull}): VNode {
  const {total, completed} = measure(pull.progress);
  const left = estimateSecondsLeft(pull.progress, Date.now());
  useEffect(() => { if (pull.state === 'complete') void refreshStatus(); }, [pull.state]);
  return (
    <div class="stack">
      <Progress label={t('onboarding.model.pulling', {model: pull.model})} value={total ? completed / total : null} />
      <p class="soft">
        {total ? t('onboarding.model.progress', {completed: formatBytes(completed), total: formatBytes(total)}) : pull.progress.status}
        {left !== null && total > completed && <> {t('onboarding.model.left', {time: formatDuration(left)})}</>}
      </p>
      <Button onClick={() => cancelPull(pull.id)}>{t('app.cancel')}</Button>
    </div>
  );
}
