/** The question whether a machine may use the models. */
import type {VNode} from 'preact';
import {t} from '../i18n/i18n';
import {Dialog} from '../ui/dialog';
import {formatRelativeTime} from '../ui/format';
import {machineQuestion, type MachineAnswer, type MachineRequest} from './machine-request';
import {user} from './session';

const MAX_NAME = 64;

export function MachineDialog(): VNode | null {
  const question = machineQuestion.value;
  if (!question) return null;
  const {machine, answer} = question;
  return (
    <Dialog id="machine" title={t('session.machine.title')} closesOutside={false} onClose={() => answer({kind: 'none'})}>
      <p id="machine-warning" class="error">{t('session.machine.warning')}</p>
      <dl>
        <dt>{t('session.machine.account')}</dt><dd id="machine-user">{user.value?.name}</dd>
        <dt>{t('session.machine.asked')}</dt><dd id="machine-origin">{describeOrigin(machine)}</dd>
        <dt>{t('session.machine.key')}</dt><dd><code id="machine-fingerprint">{machine.fingerprint}</code></dd>
      </dl>
      <p>{t('session.machine.compare')} <code>ssh-keygen -lf ~/.ollama/id_ed25519.pub</code></p>
      <form class="stack" onSubmit={event => { event.preventDefault(); answer(readAnswer(event)); }}>
        <label class="field">{t('session.machine.name')}
          <input id="machine-name" name="name" maxLength={MAX_NAME} autocomplete="off" defaultValue={proposeName(machine)} />
        </label>
        <label class="tick"><input id="machine-manage" name="manage" type="checkbox" /> {t('session.machine.manage')}</label>
        <div class="buttons">
          {/* The first button is what Enter presses. */}
          <button id="decline-machine" class="main" autofocus>{t('session.machine.decline')}</button>
          <button id="approve-machine" value="yes">{t('session.machine.approve')}</button>
        </div>
      </form>
    </Dialog>
  );
}

function readAnswer(event: SubmitEvent): MachineAnswer {
  const {submitter, target} = event;
  if (!(submitter instanceof HTMLButtonElement) || submitter.value !== 'yes' || !(target instanceof HTMLFormElement)) return {kind: 'declined'};
  const fields = new FormData(target);
  const name = String(fields.get('name') ?? '').trim();
  return {kind: 'approved', name: name || 'ollama', mayManage: fields.get('manage') !== null};
}

/** Returns when and from where a machine asked, such as "2 seconds ago from 192.0.2.0/24, where you are, too". */
export function describeOrigin({address, is_same_network: isSameNetwork, program, seconds_ago: age}: MachineRequest): string {
  const parts = [formatRelativeTime(-Math.floor(age) * 1000, 0)];
  if (address) parts.push(t(isSameNetwork === null ? 'session.machine.from' : isSameNetwork ? 'session.machine.fromHere' : 'session.machine.fromElsewhere', {address}));
  const origin = parts.join(' ');
  return program ? t('session.machine.as', {origin, program}) : origin;
}

function proposeName({program, address}: MachineRequest): string {
  return [program, address].filter(Boolean).join(', ').slice(0, MAX_NAME).trim() || 'ollama';
}
