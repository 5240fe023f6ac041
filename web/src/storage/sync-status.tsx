/** A line that says where the conversations are, and a question about new desktops. */
import {signal} from '@preact/signals';
import type {VNode} from 'preact';
import {plural, t} from '../i18n/i18n';
import {Icon, type IconName} from '../ui/icon';
import type {DesktopSync} from './sync';
import {synchronisation} from './synchronisation';

/** The page has one such dialog: the settings open it, too. */
export const showsSyncDialog = signal(false);

/** A page that was closed asks again. */
const postponed = signal<readonly string[]>([]);

export function SyncStatus(): VNode {
  const desktops = synchronisation.desktops.value;
  const asked = desktops.find(each => each.state === 'undecided' && (each.found ?? 0) > 0 && !postponed.value.includes(each.id));
  const {icon, text} = describe(desktops);
  return (
    <>
      {asked && <Question desktop={asked} />}
      <button id="sync-status" type="button" class="plain with-icon" onClick={() => { showsSyncDialog.value = true; }}>
        <Icon name={icon} /><span>{text}</span>
      </button>
    </>
  );
}

function Question({desktop: {id, name, found}}: {readonly desktop: DesktopSync}): VNode {
  return (
    <div class="sync-question sheet" id="sync-question" role="status">
      <p>{t('storage.sync.question', {name, count: plural('storage.count', found ?? 0)})}</p>
      <div class="buttons">
        <button type="button" class="plain" onClick={() => { postponed.value = [...postponed.value, id]; }}>{t('storage.sync.notNow')}</button>
        <button type="button" class="main" onClick={() => void synchronisation.choose(id, name, 'on')}>{t('storage.sync.on')}</button>
      </div>
    </div>
  );
}

function describe(desktops: readonly DesktopSync[]): {readonly icon: IconName; readonly text: string} {
  const chosen = desktops.filter(each => each.state !== 'off' && each.state !== 'undecided' && (each.state !== 'absent' || each.at > 0));
  const running = chosen.find(each => each.state === 'running' || each.state === 'waiting');
  const wrong = chosen.find(each => each.state === 'failing' || each.state === 'full');
  const good = chosen.filter(each => each.state === 'synchronised');
  if (wrong) return {icon: 'warning', text: t('storage.sync.wrong', {name: wrong.name})};
  if (running) return {icon: 'retry', text: t('storage.sync.running', {name: running.name})};
  if (good.length > 0) return {icon: 'check', text: t('storage.sync.good', {names: good.map(each => each.name).join(', ')})};
  const away = chosen.find(each => each.state === 'away');
  if (away) return {icon: 'info', text: t('storage.sync.away', {name: away.name})};
  return {icon: 'info', text: t('storage.sync.none')};
}
