/** The dialog that makes an API key, and shows it once. */
import {useSignal} from '@preact/signals';
import type {VNode} from 'preact';
import {t} from '../i18n/i18n';
import {modelsByDesktop} from '../models/model-store';
import {bestDesktop, desktops} from '../status/status-store';
import {Button} from '../ui/button';
import {CodeBlock} from '../ui/code-block';
import {Dialog} from '../ui/dialog';
import {FormDialog} from '../ui/form-dialog';
import {createApiKey, readApiKeys, type CreatedKey, type NewKey} from './api-keys';

const DAY = 86_400;
const LIFETIMES = {never: null, day: DAY, week: 7 * DAY, month: 30 * DAY, quarter: 90 * DAY, year: 365 * DAY} as const;
type Lifetime = keyof typeof LIFETIMES;
const isLifetime = (name: string): name is Lifetime => Object.hasOwn(LIFETIMES, name);
const MAX_NAME = 64;

export function KeyDialog({onClose}: {readonly onClose: () => void}): VNode {
  const created = useSignal<CreatedKey | null>(null);
  if (created.value) return <CreatedDialog created={created.value} onClose={onClose} />;
  return <NewKeyDialog onCreated={key => { created.value = key; }} onClose={onClose} />;
}

function CreatedDialog({created: {name, key}, onClose}: {readonly created: CreatedKey; readonly onClose: () => void}): VNode {
  return (
    <Dialog
      key="created"
      id="created-key"
      title={t('settings.keyCreated', {name})}
      closesOutside={false}
      onClose={onClose}
      footer={<Button kind="main" onClick={onClose}>{t('settings.done')}</Button>}
    >
      <p class="warning">{t('settings.keyOnce')}</p>
      <CodeBlock text={key} label={t('settings.key')} />
    </Dialog>
  );
}

interface NewKeyDialogProperties {
  readonly onCreated: (key: CreatedKey) => void;
  readonly onClose: () => void;
}

function NewKeyDialog({onCreated, onClose}: NewKeyDialogProperties): VNode {
  const desktop = useSignal(bestDesktop.value?.id ?? '');
  const isRestricted = useSignal(false);
  const create = async (form: HTMLFormElement): Promise<string> => {
    const options = readForm(new FormData(form), desktop.value);
    // Without models a key may use all of them.
    if (isRestricted.value && options.models.length === 0) return t('settings.keyChooseModels');
    onCreated(await createApiKey(options));
    await readApiKeys();
    return '';
  };
  return (
    <FormDialog key="form" id="key-form" title={t('settings.newKey')} action={t('settings.create')} submit={create} closesOutside={false} onClose={onClose}>
      <label class="field"><span>{t('settings.keyName')}</span><input name="name" required maxLength={MAX_NAME} autocomplete="off" autofocus /></label>
      <fieldset>
        <legend>{t('settings.keyRights')}</legend>
        <div class="choices">
          <label class="tick"><input type="radio" name="scope" value="use" defaultChecked />{t('settings.keyUse')}</label>
          <label class="tick"><input type="radio" name="scope" value="manage" />{t('settings.keyManage')}</label>
        </div>
      </fieldset>
      <fieldset>
        <legend>{t('settings.keyModels')}</legend>
        <div class="choices">
          <label class="tick"><input type="radio" name="which" value="all" defaultChecked onChange={() => { isRestricted.value = false; }} />{t('settings.keyAllModels')}</label>
          <label class="tick"><input type="radio" name="which" value="some" onChange={() => { isRestricted.value = true; }} />{t('settings.keySomeModels')}</label>
        </div>
        {isRestricted.value && <ModelChoices desktop={desktop.value} />}
      </fieldset>
      <div class="fields">
        <label class="field">
          <span>{t('settings.keyExpires')}</span>
          <select name="lifetime">{Object.keys(LIFETIMES).filter(isLifetime).map(name => <option key={name} value={name}>{t(`settings.expires.${name}`)}</option>)}</select>
        </label>
        <DesktopChoice value={desktop.value} onChange={id => { desktop.value = id; }} />
      </div>
      <label class="field"><span>{t('settings.keyRate')}</span><input name="rate" type="number" min={1} max={1_000_000} step={1} inputMode="numeric" /></label>
    </FormDialog>
  );
}

/** Returns what the form asks for. */
export function readForm(data: FormData, desktop: string): NewKey {
  const text = (name: string): string => String(data.get(name) ?? '');
  const lifetime = text('lifetime');
  const rate = Number.parseInt(text('rate'), 10);
  return {
    name: text('name'),
    scopes: text('scope') === 'manage' ? ['use', 'manage'] : ['use'],
    models: text('which') === 'some' ? data.getAll('model').map(String) : [],
    expiresIn: isLifetime(lifetime) ? LIFETIMES[lifetime] : null,
    requestsPerMinute: rate > 0 ? rate : null,
    desktop,
  };
}

function ModelChoices({desktop}: {readonly desktop: string}): VNode {
  const models = modelsByDesktop.value.get(desktop)?.models ?? [];
  const names = models.length ? models.map(({name}) => name) : (desktops.value?.find(({id}) => id === desktop)?.models ?? []);
  return (
    <div class="key-models">
      {names.map(name => <label key={name} class="tick"><input type="checkbox" name="model" value={name} />{name}</label>)}
    </div>
  );
}

/** Is shown only if there is something to choose. */
function DesktopChoice({value, onChange}: {readonly value: string; readonly onChange: (id: string) => void}): VNode | null {
  const list = desktops.value ?? [];
  if (list.length < 2) return null;
  return (
    <label class="field">
      <span>{t('settings.keyDesktop')}</span>
      <select value={value} onChange={event => onChange(event.currentTarget.value)}>{list.map(({id, name}) => <option key={id} value={id}>{name}</option>)}</select>
    </label>
  );
}
