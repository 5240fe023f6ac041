/** The path of this connection as a line of dots, with the node that a person should know of in words. */
import type {VNode} from 'preact';
import {navigate} from '../app/router';
import {t} from '../i18n/i18n';
import {path} from './connection';
import {findWorst, type PathNode} from './path';
import {bestDesktop} from './status-store';
import './path.css';

export function PathLine(): VNode {
  const {nodes} = path.value;
  return (
    <button type="button" class="plain path-line" title={t('status.open')} onClick={() => navigate('status')}>
      <svg class="path-dots" viewBox={`0 0 ${nodes.length * 14 - 4} 10`} aria-hidden="true">
        <path d={`M5 5h${(nodes.length - 1) * 14}`} />
        {nodes.map(({name, state}, index) => <circle key={name} data-state={state} cx={5 + index * 14} cy="5" r="4" />)}
      </svg>
      <span class="path-summary">{summarize(findWorst(nodes))}</span>
    </button>
  );
}

function summarize(worst: PathNode | undefined): string {
  if (!worst || worst.state === 'unknown') return t('status.checking');
  if (worst.state === 'ok') return t('status.allWell', {name: bestDesktop.value?.name ?? t('status.node.ollama')});
  return t('status.worst', {node: t(`status.node.${worst.name}`), detail: worst.detail || t(`status.state.${worst.state}`)});
}
