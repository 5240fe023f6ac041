/** The API keys: a list, and a button that makes one. */
import {useSignal} from '@preact/signals';
import type {VNode} from 'preact';
import {useEffect} from 'preact/hooks';
import {RequestError} from '../api/http';
import {plural, t} from '../i18n/i18n';
import {desktops} from '../status/status-store';
import {Button} from '../ui/button';
import {askToConfirm} from '../ui/confirmation';
import {formatRelativeTime} from '../ui/format';
import {showToast} from '../ui/toast';
import {useLoad} from '../ui/use-load';
import {Section} from '../ui/view';
import {apiKeys, readApiKeys, revokeApiKey, type ApiKey} from './api-keys';
import {KeyDialog} from './key-dialog';
import {describeUse} from './last-use';

/** How often to look whether its desktop has stored a new key. */
const PENDING_POLL_MS = 5_000;

export function KeysSection(): VNode {
  const isCreating = useSignal(false);
  const error = useLoad(readApiKeys);
  const keys = apiKeys.value;
  const isWaiting = keys?.some(({state}) => state === 'pending') ?? false;
  useEffect(() => {
    if (!isWaiting) return;
    const controller = new AbortController();
    const timer = setInterval(() => void readApiKeys(controller.signal).catch(() => {}), PENDING_POLL_MS); // the next time
    return () => {
      clearInterval(timer);
      controller.abort();
    };
  }, [isWaiting]);
  return (
    <Section
      id="settings-keys"
      title={t('settings.keys')}
      explanation={t('settings.keysExplained')}
      actions={<Button id="new-key" icon="add" onClick={() => { isCreating.value = true; }}>{t('settings.newKey')}</Button>}
    >
      {error && <p class="error">{error}</p>}
      {keys?.length === 0 && <p>{t('settings.noKeys')}</p>}
      {keys && keys.length > 0 && <ul class="cards">{keys.map(key => <KeyCard key={key.id} apiKey={key} />)}</ul>}
      {isCreating.value && <KeyDialog onClose={() => { isCreating.value = false; }} />}
    </Section>
  );
}

function KeyCard({apiKey}: {readonly apiKey: ApiKey}): VNode {
  const {id, name, state, message} = apiKey;
  const revoke = async (): Promise<void> => {
    const question = {title: t('settings.revokeTitle', {name}), text: t('settings.revokeText'), action: t('settings.revoke'), isDangerous: true};
    if (!(await askToConfirm(question))) return;
    try {
      await revokeApiKey(id);
    } catch (error) {
      if (!(error instanceof RequestError)) throw error;
      showToast(error.message, 'error');
    }
  };
  return (
    <li class="card api-key">
      <div class="card-title">
        <span class="card-name">
          <span>{name}</span>
          {state === 'pending' && <span class="tag wait">{t('settings.keyPending')}</span>}
          {state === 'failed' && <span class="tag off">{t('settings.keyFailed')}</span>}
        </span>
        <span class="card-actions"><Button label={t('settings.revokeName', {name})} onClick={() => void revoke()}>{t('settings.revoke')}</Button></span>
      </div>
      {message && <p class="error">{message}</p>}
      <p class="soft key-details">{describeKey(apiKey, Date.now())}</p>
    </li>
  );
}

/** Returns what a key may do, until when, and when it was last used; `now` is in epoch milliseconds. */
export function describeKey(key: ApiKey, now: number): string {
  const {scopes, models, requests_per_minute: rate, expires_at: expires, last_used: used, last_address: address, desktop} = key;
  const name = desktops.value?.find(each => each.id === desktop)?.name;
  return [
    t(scopes.includes('manage') ? 'settings.keyMayManage' : 'settings.keyMayUse'),
    models?.length ? t('settings.keyOnly', {models: models.join(', ')}) : '',
    rate ? plural('settings.keyRateIs', rate) : '',
    describeExpiry(expires, now),
    desktop ? (name ? t('settings.keyOn', {name}) : t('settings.keyOnUnknown')) : '',
    describeUse(used, address),
  ].filter(Boolean).join(' · ');
}

function describeExpiry(expires: number | null | undefined, now: number): string {
  if (!expires) return t('settings.keyNeverExpires');
  if (expires * 1000 <= now) return t('settings.keyExpired');
  return t('settings.keyExpiresWhen', {when: formatRelativeTime(expires * 1000, now)});
}
