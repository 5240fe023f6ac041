/** A desktop: its Ollama, and where its own apps ask. */
import type {VNode} from 'preact';
import {navigate} from '../app/router';
import type {Desktop} from '../api/types';
import {plural, t} from '../i18n/i18n';
import {Button} from '../ui/button';
import {formatLatency} from '../ui/format';
import {Facts} from '../ui/view';
import {PreferenceChoice} from './preference-choice';

const OLLAMA = {up: 'status.ollamaUp', demo: 'status.ollamaDemo', down: 'status.ollamaIsDown'} as const;
const TAG = {up: '', demo: 'demo', down: 'off'} as const;

interface DesktopCardProperties {
  readonly desktop: Desktop;
  /** Whether it answers, unless another one is chosen. */
  readonly isBest: boolean;
}

export function DesktopCard({desktop, isBest}: DesktopCardProperties): VNode {
  const {id, name, ollama, version, models, latency_ms: latency, resources} = desktop;
  return (
    <li class="card">
      <div class="card-title">
        <span class="card-name">
          <span>{name}</span>
          <span class={`tag ${TAG[ollama]}`}>{t(OLLAMA[ollama])}</span>
          {isBest && <span class="soft">{t('status.best')}</span>}
        </span>
        <span class="card-actions"><Button icon="model" onClick={() => navigate('models')}>{t('status.showModels')}</Button></span>
      </div>
      <Facts
        facts={[
          [t('status.node.ollama'), ollama === 'up' ? t('status.version', {version}) : null],
          [t('status.showModels'), ollama === 'down' ? null : plural('status.models', models.length)],
          [t('status.latency'), latency === null || latency === undefined ? null : formatLatency(latency)],
          [t('status.resources'), resources === undefined ? null : t(resources ? 'status.resourcesYes' : 'status.resourcesNo')],
        ]}
      />
      {resources && <PreferenceChoice desktop={id} name={name} />}
    </li>
  );
}
