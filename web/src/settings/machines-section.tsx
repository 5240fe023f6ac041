/** The machines whose `ollama` command may use the person's models. */
import {useSignal} from '@preact/signals';
import type {VNode} from 'preact';
import {RequestError} from '../api/http';
import {t} from '../i18n/i18n';
import {Button} from '../ui/button';
import {askToConfirm} from '../ui/confirmation';
import {showToast} from '../ui/toast';
import {useLoad} from '../ui/use-load';
import {Section} from '../ui/view';
import {machines, readMachines, removeMachine, renameMachine, type Machine} from './machines';
import {describeUse} from './last-use';

const MAX_NAME = 64;

export function MachinesSection(): VNode {
  const error = useLoad(readMachines);
  const list = machines.value;
  return (
    <Section id="settings-machines" title={t('settings.machines')} explanation={t('settings.machinesExplained')}>
      {error && <p class="error">{error}</p>}
      {list?.length === 0 && <p>{t('settings.noMachines')}</p>}
      {list?.map(machine => <MachineRow key={machine.id} machine={machine} />)}
    </Section>
  );
}

function MachineRow({machine}: {readonly machine: Machine}): VNode {
  const {id, name, fingerprint, scopes, last_used: lastUsed, last_address: lastAddress} = machine;
  const isBusy = useSignal(false);
  const change = async (act: () => Promise<void>): Promise<void> => {
    isBusy.value = true;
    try {
      await act();
    } catch (error) {
      if (!(error instanceof RequestError)) throw error;
      showToast(error.message, 'error');
    } finally {
      isBusy.value = false;
    }
  };
  const rename = (input: HTMLInputElement): void => {
    const next = input.value.trim();
    if (next === name) return;
    if (!next) input.value = name;
    else void change(() => renameMachine(id, next)).then(() => { input.value = machines.value?.find(each => each.id === id)?.name ?? name; });
  };
  const remove = async (): Promise<void> => {
    const question = {title: t('settings.removeTitle', {name}), text: t('settings.removeText'), action: t('settings.remove'), isDangerous: true};
    if (await askToConfirm(question)) await change(() => removeMachine(id));
  };
  return (
    <div class="machine">
      <input aria-label={t('settings.machineName')} maxLength={MAX_NAME} autocomplete="off" defaultValue={name} onChange={event => rename(event.currentTarget)} />
      <Button label={t('settings.removeName', {name})} busy={isBusy.value} onClick={() => void remove()}>{t('settings.remove')}</Button>
      <p class="soft">
        {fingerprint}: {t(scopes.includes('manage') ? 'settings.mayChange' : 'settings.mayUse')}, {describeUse(lastUsed, lastAddress)}
      </p>
    </div>
  );
}
