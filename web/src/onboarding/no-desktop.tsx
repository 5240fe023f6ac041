/** How to install a desktop and connect it. */
import type {VNode} from 'preact';
import {t} from '../i18n/i18n';
import {Button} from '../ui/button';
import {Command, CommandsBySystem, system} from './command';
import {useSecondsUntil} from './countdown';
import {pairing, requestPairing} from './pairing';
import {Screen, Waiting} from './screen';
import {INSTALL, RUN} from './system';

export function NoDesktop(): VNode {
  return (
    <Screen id="no-desktop" title={t('onboarding.desktop.title')}>
      <p>{t('onboarding.desktop.what')}</p>
      <ol class="steps">
        <li><p>{t('onboarding.desktop.install')}</p><CommandsBySystem commands={INSTALL} /></li>
        <li><p>{t('onboarding.desktop.pair')}</p><PairingCommand /></li>
        <li><p>{t('onboarding.desktop.run')}</p><Command text={RUN[system.value]} /></li>
      </ol>
      <Waiting>{t('onboarding.desktop.wait')}</Waiting>
    </Screen>
  );
}

function PairingCommand(): VNode {
  const current = pairing.value;
  const isExpired = useSecondsUntil(current.state === 'ready' ? current.expiresAt : 0) === 0;
  if (current.state === 'ready' && !isExpired) {
    return <><Command id="pairing" text={current.command} /><p class="soft">{t('onboarding.pairing.once')}</p></>;
  }
  return (
    <div class="stack">
      {current.state === 'failed' && <p class="error" role="alert">{current.message}</p>}
      {current.state === 'ready' && <p role="status">{t('onboarding.pairing.expired')}</p>}
      <Button id="create-pairing" kind="main" icon="link" busy={current.state === 'requested'} onClick={() => void requestPairing()}>
        {t('onboarding.pairing.create')}
      </Button>
    </div>
  );
}
