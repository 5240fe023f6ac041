/** Who is logged in, and the address that programs use. */
import {useSignal} from '@preact/signals';
import type {VNode} from 'preact';
import {readJson, request} from '../api/http';
import type {Provider, User} from '../api/types';
import {navigate} from '../app/router';
import {t} from '../i18n/i18n';
import {user} from '../session/session';
import {desktops, isOnDesktop} from '../status/status-store';
import {Button} from '../ui/button';
import {CopyButton} from '../ui/copy-button';
import {useLoad} from '../ui/use-load';
import {Facts, Section} from '../ui/view';

const OLLAMA = {up: 'status.ollamaUp', demo: 'status.ollamaDemo', down: 'status.ollamaIsDown'} as const;

export function AccountSection(): VNode | null {
  const providers = useSignal<readonly Provider[]>([]);
  useLoad(async signal => {
    if (isOnDesktop.value) return;
    const body = await readJson<{readonly providers: readonly Provider[]}>(await request('GET', '/ctllm/providers', {signal}));
    providers.value = body.providers;
  }, [isOnDesktop.value]);
  const person = user.value;
  if (!person) return null;
  const provider = findProvider(person, providers.value);
  const list = desktops.value ?? [];
  return (
    <Section
      id="settings-account"
      title={t('settings.account')}
      actions={<>{isOnDesktop.value && <Button id="open-setup" kind="plain" onClick={() => navigate('setup')}>{t('onboarding.setup.open')}</Button>}<Button icon="shield" kind="plain" onClick={() => navigate('privacy')}>{t('settings.privacy')}</Button></>}
    >
      <Facts
        facts={[
          [t('settings.loggedInAs'), (
            <span id="settings-user">{provider ? t('settings.withProvider', {name: person.name, provider: provider.title}) : person.name}</span>
          )],
          [t('settings.url'), <span class="copyable"><code id="settings-url">{location.origin}</code> <CopyButton text={location.origin} label={t('settings.copyUrl')} /></span>],
          [t('settings.desktops'), (
            <span id="settings-desktops">
              {list.length ? list.map(({id, name, ollama}) => <span class="line" key={id}>{name}: {t(OLLAMA[ollama])}</span>) : t('status.noDesktops')}
            </span>
          )],
        ]}
      />
    </Section>
  );
}

/** Returns the provider that has this person. An id of one of its users begins with its address. */
export function findProvider({id}: User, providers: readonly Provider[]): Provider | undefined {
  return providers.find(({issuer}) => id.startsWith(`${issuer.replace(/\/$/, '')}|`));
}
