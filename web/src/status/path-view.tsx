/** The path of this connection as a picture, which is also a list for who cannot see it. */
import type {VNode} from 'preact';
import {t} from '../i18n/i18n';
import {Button} from '../ui/button';
import {formatLatency} from '../ui/format';
import {RelativeTime} from '../ui/relative-time';
import {path} from './connection';
import type {PathNode} from './path';
import {nextTry, refreshStatus} from './status-store';
import './path.css';

export function PathView(): VNode {
  const {nodes, hint} = path.value;
  return (
    <div class="path-picture">
      <ol id="path" aria-label={t('status.path')}>{nodes.map(node => <NodeView key={node.name} {...node} />)}</ol>
      <p id="hint" role="status">{hint}</p>
      {nextTry.value !== null && (
        <p class="next-try">
          <span><RetryTime time={nextTry.value} /></span>
          <Button icon="retry" onClick={() => void refreshStatus()}>{t('status.tryNow')}</Button>
        </p>
      )}
    </div>
  );
}

function NodeView({name, state, detail, latency}: PathNode): VNode {
  return (
    <li id={name} data-state={state}>
      <span class="mark" aria-hidden="true" />
      <span class="node">{t(`status.node.${name}`)}</span>{' '}
      <span class="state">{t(`status.state.${state}`)}</span>{' '}
      <span class="detail">{detail}</span>{' '}
      {latency !== null && <span class="latency">{formatLatency(latency)}</span>}
    </li>
  );
}

/** "Trying again in 5 seconds", around the time, wherever the language has it. */
function RetryTime({time}: {readonly time: number}): VNode {
  const [before, after] = t('status.tryingAgain', {when: '\0'}).split('\0');
  return <>{before}<RelativeTime time={time} />{after}</>;
}
