/** The system prompt and the options of a conversation, and presets of them. */
import {useSignal} from '@preact/signals';
import type {VNode} from 'preact';
import {useEffect, useId} from 'preact/hooks';
import {t, type TextKey} from '../i18n/i18n';
import {Button, IconButton} from '../ui/button';
import {Dialog} from '../ui/dialog';
import {instructions, setInstructions, type Instructions} from './chat-store';
import {deletePreset, loadPresets, MAX_PRESET_NAME, presets, savePreset} from './presets';
import {showsChatSettings} from './settings-state';

interface NumberOption {
  readonly name: string;
  readonly label: TextKey;
  readonly least: number;
  readonly greatest: number;
  readonly step: number;
}

const OPTIONS: readonly NumberOption[] = [
  {name: 'temperature', label: 'chat.temperature', least: 0, greatest: 2, step: 0.1},
  {name: 'top_p', label: 'chat.topP', least: 0, greatest: 1, step: 0.05},
  {name: 'num_ctx', label: 'chat.contextLength', least: 256, greatest: 1_048_576, step: 1},
  {name: 'num_predict', label: 'chat.maxTokens', least: 1, greatest: 1_000_000, step: 1},
  {name: 'seed', label: 'chat.seed', least: 0, greatest: 2_147_483_647, step: 1},
];

const THINK: Readonly<Record<string, {readonly value: Instructions['think']; readonly label: TextKey}>> = {
  default: {value: null, label: 'chat.thinkDefault'},
  on: {value: true, label: 'chat.thinkOn'},
  off: {value: false, label: 'chat.thinkOff'},
  low: {value: 'low', label: 'chat.thinkLow'},
  medium: {value: 'medium', label: 'chat.thinkMedium'},
  high: {value: 'high', label: 'chat.thinkHigh'},
};

export default function ChatSettings(): VNode {
  useEffect(loadPresets, []);
  const current = instructions.value;
  const think = Object.entries(THINK).find(([, {value}]) => value === current.think)?.[0] ?? 'default';
  const close = (): void => { showsChatSettings.value = false; };
  return (
    <Dialog id="chat-settings" title={t('chat.settings')} onClose={close} closesOutside={false} footer={<Button kind="main" onClick={close}>{t('chat.done')}</Button>}>
      <label class="field">
        <span>{t('chat.system')} <span class="soft">{t('chat.systemHint')}</span></span>
        <textarea id="system-prompt" rows={5} dir="auto" value={current.system} onInput={event => setInstructions({...instructions.peek(), system: event.currentTarget.value})} />
      </label>
      <div class="field-grid">{OPTIONS.map(option => <NumberField key={option.name} option={option} />)}</div>
      <label class="field">
        <span>{t('chat.think')}</span>
        <select id="think" value={think} onChange={event => setInstructions({...instructions.peek(), think: THINK[event.currentTarget.value]?.value ?? null})}>
          {Object.entries(THINK).map(([name, {label}]) => <option key={name} value={name}>{t(label)}</option>)}
        </select>
      </label>
      <Presets />
    </Dialog>
  );
}

function NumberField({option}: {readonly option: NumberOption}): VNode {
  const {name, label, least, greatest, step} = option;
  const error = useSignal('');
  const errorId = useId();
  const value = instructions.value.options[name];
  // What is typed may be no number yet.
  const text = useSignal('');
  useEffect(() => {
    if (typeof value === 'number' ? Number(text.peek()) !== value : isValid(text.peek(), option)) text.value = value === undefined ? '' : String(value);
  }, [value]);
  const take = (typed: string): void => {
    text.value = typed;
    if (!isValid(typed, option)) return;
    error.value = '';
    const {[name]: _, ...others} = instructions.peek().options;
    setInstructions({...instructions.peek(), options: typed === '' ? others : {...others, [name]: Number(typed)}});
  };
  return (
    <label class="field">
      <span>{t(label)}</span>
      <input
        id={`option-${name}`}
        type="number"
        min={least}
        max={greatest}
        step={step === 1 ? 1 : 'any'}
        placeholder={t('chat.modelDefault')}
        value={text.value}
        aria-invalid={error.value !== ''}
        aria-describedby={errorId}
        onInput={event => { if (!event.currentTarget.validity.badInput) take(event.currentTarget.value); }}
        onChange={event => {
          const isWrong = event.currentTarget.validity.badInput || !isValid(event.currentTarget.value, option);
          error.value = isWrong ? t('chat.outOfRange', {least, greatest}) : '';
        }}
      />
      <span id={errorId} class="field-error">{error.value}</span>
    </label>
  );
}

function isValid(text: string, {least, greatest}: NumberOption): boolean {
  const number = Number(text);
  return text === '' || (number >= least && number <= greatest);
}

function Presets(): VNode {
  const name = useSignal('');
  const save = (): void => {
    if (!name.value.trim()) return;
    savePreset(name.value.trim(), instructions.peek());
    name.value = '';
  };
  return (
    <fieldset class="presets">
      <legend>{t('chat.presets')}</legend>
      <p class="soft">{presets.value.length ? t('chat.presetsHint') : t('chat.noPresets')}</p>
      <ul>
        {presets.value.map(({name: each, ...values}) => (
          <li key={each}>
            <button type="button" class="preset" aria-label={t('chat.applyPreset', {name: each})} onClick={() => setInstructions(values)}>{each}</button>
            <IconButton icon="delete" label={t('chat.deletePreset', {name: each})} onClick={() => deletePreset(each)} />
          </li>
        ))}
      </ul>
      <form onSubmit={event => { event.preventDefault(); save(); }}>
        <input id="preset-name" aria-label={t('chat.presetName')} placeholder={t('chat.presetName')} maxLength={MAX_PRESET_NAME} value={name.value} onInput={event => { name.value = event.currentTarget.value; }} />
        <button disabled={!name.value.trim()}>{t('chat.savePreset')}</button>
      </form>
    </fieldset>
  );
}
