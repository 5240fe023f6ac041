/** The choice among the models of all connected desktops. */
import type {VNode} from 'preact';
import {t} from '../i18n/i18n';
import {formatBytes} from '../ui/format';
import {chooseModel, chosen, modelLists, wanted} from './chat-store';
import type {Choice, ModelOption} from './model-options';

export function ModelChoice(): VNode {
  const lists = modelLists.value;
  const current = chosen.value;
  const {model: wantedModel} = wanted.value;
  const isAway = current === null && wantedModel !== '';
  const isEmpty = lists.every(({options}) => options.length === 0);
  return (
    <label class="model-choice">
      <span class="visually-hidden">{t('chat.model')}</span>
      <select
        id="models"
        disabled={isEmpty}
        value={current ? valueOf(current) : ''}
        onChange={event => {
          const choice = choiceOf(event.currentTarget.value);
          if (choice) chooseModel(choice);
        }}
      >
        {/* One element for both: a browser shows nothing when the one that it shows is taken away. */}
        {(isEmpty || isAway) && <option value="" disabled={isAway}>{isAway ? t('chat.modelAway', {model: wantedModel}) : t('chat.noModels')}</option>}
        {lists.map(({desktop, options}) => options.length > 0 && (
          <optgroup key={desktop.id} label={desktop.name}>
            {options.map(option => <option key={option.model} value={valueOf(option)}>{describe(option)}</option>)}
          </optgroup>
        ))}
      </select>
    </label>
  );
}

function describe({model, size, isLoaded, isDemo, isRemote}: ModelOption): string {
  const marks = [
    size > 0 && !isRemote ? formatBytes(size) : '',
    isLoaded ? t('chat.loaded') : '',
    isDemo ? t('chat.demoMark') : '',
    isRemote ? t('chat.remoteMark') : '',
  ].filter(Boolean);
  return marks.length ? `${model} (${marks.join(', ')})` : model;
}

function valueOf({desktop, model}: Choice): string {
  return `${desktop} ${model}`;
}

function choiceOf(value: string): Choice | null {
  const at = value.indexOf(' ');
  return at < 0 ? null : {desktop: value.slice(0, at), model: value.slice(at + 1)};
}
