/** The proxy of the person: its state, and buttons that start and stop it. */
import {useSignal} from '@preact/signals';
import type {VNode} from 'preact';
import {RequestError} from '../api/http';
import type {ProxyStatus} from '../api/types';
import {t} from '../i18n/i18n';
import {authorizedRequest} from '../session/session';
import {Button} from '../ui/button';
import {askToConfirm} from '../ui/confirmation';
import {formatBytes, formatDuration, formatNumber} from '../ui/format';
import {RelativeTime} from '../ui/relative-time';
import {showToast} from '../ui/toast';
import {Facts, Section} from '../ui/view';
import {proxy, refreshStatus} from './status-store';

export function ProxySection(): VNode | null {
  const isBusy = useSignal(false);
  const status = proxy.value;
  const change = async (method: 'PUT' | 'DELETE'): Promise<void> => {
    isBusy.value = true;
    try {
      await authorizedRequest(method, '/ctllm/proxy');
    } catch (error) {
      if (error instanceof RequestError) showToast(error.message, 'error');
    } finally {
      isBusy.value = false;
    }
    await refreshStatus();
  };
  const stop = async (): Promise<void> => {
    const question = {title: t('status.stopTitle'), text: t('status.stopText'), action: t('status.stop'), isDangerous: true};
    if (await askToConfirm(question)) await change('DELETE');
  };
  if (!status) return null;
  const isStopped = status.state === 'absent' || status.state === 'failed';
  return (
    <Section
      id="proxy-section"
      title={t('status.proxyTitle')}
      explanation={t('status.proxyExplained')}
      actions={isStopped
        ? <Button busy={isBusy.value} onClick={() => void change('PUT')}>{t('status.start')}</Button>
        : <Button busy={isBusy.value} onClick={() => void stop()}>{t('status.stop')}</Button>}
    >
      {status.error && <p class="error">{status.error}</p>}
      <Facts facts={listFacts(status)} />
    </Section>
  );
}

function listFacts(status: ProxyStatus): readonly (readonly [string, VNode | string | null])[] {
  const {state, exchanges, idle_seconds: idle, memory_bytes: memory, started_at: startedAt, spawner} = status;
  const isRunning = state === 'running';
  return [
    [t('status.proxyState'), t(`status.proxyState.${state}`)],
    [t('status.requests'), isRunning ? formatNumber(exchanges) : null],
    [t('status.idle'), isRunning && typeof idle === 'number' && exchanges === 0 ? formatDuration(idle) : null],
    [t('status.memory'), isRunning && memory ? formatBytes(memory) : null],
    [t('status.started'), isRunning && startedAt ? <RelativeTime time={startedAt * 1000} /> : null],
    [t('status.spawner'), spawner ? describeSpawner(spawner) : null],
  ];
}

function describeSpawner(spawner: string): string {
  if (spawner === 'process' || spawner === 'docker') return t(`status.spawner.${spawner}`);
  return spawner;
}
