/** The dialog that pulls a model. */
import {useSignal} from '@preact/signals';
import type {VNode} from 'preact';
import {useId} from 'preact/hooks';
import {t} from '../i18n/i18n';
import {bestDesktop, desktops} from '../status/status-store';
import {Button} from '../ui/button';
import {Dialog} from '../ui/dialog';
import {PullRow} from './pull-row';
import {pulls, startPull} from './pull-store';

/** Models of a few gigabytes at most, which run on any machine. */
export const SMALL_MODELS: readonly string[] = ['llama3.2:1b', 'qwen3:1.7b', 'gemma3:1b', 'llama3.2'];

export function PullDialog({onClose}: {readonly onClose: () => void}): VNode {
  const formId = useId();
  const name = useSignal('');
  const able = (desktops.value ?? []).filter(({ollama}) => ollama !== 'down');
  const chosen = useSignal(bestDesktop.value?.id ?? '');
  const desktop = able.find(({id}) => id === chosen.value) ?? able[0];
  const start = (model: string): void => {
    if (!desktop || !model) return;
    startPull(desktop.id, model);
    name.value = '';
  };
  return (
    <Dialog
      id="pull"
      title={t('models.pull')}
      onClose={onClose}
      footer={<>
        <button type="button" onClick={onClose}>{t('app.close')}</button>
        <Button kind="main" icon="download" type="submit" form={formId}>{t('models.pullAction')}</Button>
      </>}
    >
      <form
        id={formId}
        class="form"
        onSubmit={event => {
          event.preventDefault();
          start(name.value.trim());
        }}
      >
        <label class="field"><span>{t('models.pullName')}</span>
          <input
            id="pull-name"
            required
            autofocus
            autocomplete="off"
            autocapitalize="off"
            spellcheck={false}
            value={name.value}
            onInput={event => { name.value = event.currentTarget.value; }}
          />
        </label>
        <p class="soft">{t('models.pullExplained')}</p>
        {able.length > 1 && (
          <label class="field"><span>{t('models.pullDesktop')}</span>
            <select value={desktop?.id} onChange={event => { chosen.value = event.currentTarget.value; }}>
              {able.map(({id, name: title}) => <option key={id} value={id}>{title}</option>)}
            </select>
          </label>
        )}
        <div class="field">
          <span>{t('models.pullSmall')}</span>
          <div class="suggestions">
            {SMALL_MODELS.map(model => <button key={model} type="button" onClick={() => { name.value = model; }}>{model}</button>)}
          </div>
        </div>
      </form>
      {pulls.value.length > 0 && (
        <>
          <ul class="cards">{pulls.value.map(pull => <PullRow key={pull.id} pull={pull} />)}</ul>
          <p class="soft">{t('models.pullInBackground')}</p>
        </>
      )}
    </Dialog>
  );
}
