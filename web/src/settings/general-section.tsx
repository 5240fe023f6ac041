/** Settings that this browser keeps. */
import type {VNode} from 'preact';
import {useId} from 'preact/hooks';
import {t, type TextKey} from '../i18n/i18n';
import {Section} from '../ui/view';
import {LANGUAGE_CHOICES, preferences, SEND_KEYS, setPreference, TEXT_SIZES, THEMES, type Preferences} from './preferences';

export function GeneralSection(): VNode {
  return (
    <Section id="settings-general" title={t('settings.general')} explanation={t('settings.generalExplained')}>
      <div class="fields">
        <Choice name="language" values={LANGUAGE_CHOICES} />
        <Choice name="theme" values={THEMES} />
        <Choice name="textSize" values={TEXT_SIZES} />
        <Choice name="sendKey" values={SEND_KEYS} />
      </div>
    </Section>
  );
}

interface ChoiceProperties<Name extends keyof Preferences> {
  readonly name: Name;
  readonly values: readonly Preferences[Name][];
}

function Choice<Name extends keyof Preferences>({name, values}: ChoiceProperties<Name>): VNode {
  const id = useId();
  const choose = (chosen: string): void => {
    const value = values.find(each => each === chosen);
    if (value) setPreference(name, value);
  };
  return (
    <div class="field">
      <label for={id}>{t(`settings.${name}`)}</label>
      <select id={id} data-preference={name} value={preferences.value[name]} onChange={event => choose(event.currentTarget.value)}>
        {values.map(value => <option key={value} value={value}>{t(`settings.${name}.${value}` as TextKey)}</option>)}
      </select>
    </div>
  );
}
