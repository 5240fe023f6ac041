/** The screens for what is missing: each says what it is, and has one thing to do. Each goes on by itself. */
import type {ComponentType, VNode} from 'preact';
import {t} from '../i18n/i18n';
import {chooseBestDesktop} from '../status/best-desktop';
import {desktops, isOnDesktop, nextTry, problem, refreshStatus} from '../status/status-store';
import {CommandsBySystem} from './command';
import {Countdown} from './countdown';
import {missing, type Missing} from './missing';
import {NoDesktop} from './no-desktop';
import {NoModel} from './no-model';
import {Screen, Waiting} from './screen';
import {START_OLLAMA, UPDATE} from './system';

function NoNetwork(): VNode {
  return (
    <Screen id="no-network" title={t('onboarding.network.title')}>
      <p>{t('onboarding.network.what')}</p>
      <Waiting>{t('onboarding.network.wait')}</Waiting>
    </Screen>
  );
}

function NoServer(): VNode {
  const isDesktop = isOnDesktop.value;
  const {message} = problem.value ?? {message: ''};
  return (
    <Screen id="no-server" title={t(isDesktop ? 'onboarding.server.desktopTitle' : 'onboarding.unreachable.title')}>
      <p role="status">{isDesktop ? t('onboarding.server.desktop') : message}</p>
      {nextTry.value !== null && <p><Countdown until={nextTry.value} /></p>}
      <div><button type="button" class="main" onClick={() => void refreshStatus()}>{t('onboarding.tryNow')}</button></div>
    </Screen>
  );
}

function OldDesktop(): VNode {
  const name = chooseBestDesktop(desktops.value ?? [])?.name ?? '';
  return (
    <Screen id="old-desktop" title={t('onboarding.version.title', {name})}>
      <p>{t('onboarding.version.what', {name})}</p>
      <CommandsBySystem commands={UPDATE} />
      <Waiting>{t('onboarding.version.wait')}</Waiting>
    </Screen>
  );
}

function NoOllama(): VNode {
  const name = chooseBestDesktop(desktops.value ?? [])?.name ?? '';
  return (
    <Screen id="no-ollama" title={t('onboarding.ollama.title', {name})}>
      <p>{t('onboarding.ollama.what', {name})}</p>
      <CommandsBySystem commands={START_OLLAMA} />
      <Waiting>{t('onboarding.ollama.wait')}</Waiting>
    </Screen>
  );
}

const SCREENS: Partial<Record<Missing, ComponentType>> = {
  network: NoNetwork,
  server: NoServer,
  desktop: NoDesktop,
  version: OldDesktop,
  ollama: NoOllama,
  model: NoModel,
};

export default function Screens(): VNode | null {
  const Shown = SCREENS[missing.value];
  return Shown ? <Shown /> : null;
}
