/** Where conversations are stored: the desktops to choose from, and this browser. */
import type {VNode} from 'preact';
import {plural, t} from '../i18n/i18n';
import {Dialog} from '../ui/dialog';
import {RelativeTime} from '../ui/relative-time';
import {forgetsAtLogOut, setForgetsAtLogOut} from './browser-copy';
import {conversations} from './conversations';
import type {DesktopSync} from './sync';
import {showsSyncDialog} from './sync-status';
import {synchronisation} from './synchronisation';

export default function SyncDialog(): VNode {
  const desktops = synchronisation.desktops.value;
  return (
    <Dialog id="sync-dialog" title={t('storage.sync.title')} onClose={() => { showsSyncDialog.value = false; }}>
      <p>{t('storage.sync.explanation')}</p>
      {desktops.length === 0 && <p class="soft">{t('storage.sync.noDesktop')}</p>}
      <ul class="sync-desktops">{desktops.map(each => <li key={each.id}><DesktopChoice desktop={each} /></li>)}</ul>
      <h3>{t('storage.sync.browser')}</h3>
      <p>{plural('storage.inBrowser', conversations.summaries.value.length)}</p>
      <label class="tick">
        <input id="forget-at-log-out" type="checkbox" checked={forgetsAtLogOut.value} onChange={event => setForgetsAtLogOut(event.currentTarget.checked)} />
        <span>{t('storage.sync.forget')}</span>
      </label>
    </Dialog>
  );
}

function DesktopChoice({desktop}: {readonly desktop: DesktopSync}): VNode {
  const {id, name, state} = desktop;
  const isOn = state !== 'off' && state !== 'undecided' && state !== 'absent';
  return (
    <>
      <label class="tick">
        <input
          type="checkbox"
          checked={isOn}
          disabled={state === 'absent'}
          onChange={event => void synchronisation.choose(id, name, event.currentTarget.checked ? 'on' : 'off')}
        />
        <span>{t('storage.sync.with', {name})}</span>
      </label>
      <p class={state === 'failing' || state === 'full' ? 'error' : 'soft'} data-state={state}><DesktopState desktop={desktop} /></p>
    </>
  );
}

function DesktopState({desktop}: {readonly desktop: DesktopSync}): VNode {
  const {state, at, left, problem, found, unreadable, refused} = desktop;
  return (
    <>
      {t(`storage.sync.state.${state}`)}
      {state === 'synchronised' && at > 0 && <> <RelativeTime time={at} />.</>}
      {state === 'running' && left > 0 && <> {plural('storage.sync.left', left)}</>}
      {state === 'undecided' && found !== null && <> {plural('storage.sync.found', found)}</>}
      {problem && <> {problem}</>}
      {unreadable > 0 && <> {plural('storage.sync.unreadable', unreadable)}</>}
      {refused > 0 && <> {plural('storage.sync.refused', refused)}</>}
    </>
  );
}
