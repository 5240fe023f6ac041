/** Says that conversations are not kept in this browser, and why. */
import {signal} from '@preact/signals';
import type {VNode} from 'preact';
import {t} from '../i18n/i18n';
import {IconButton} from '../ui/button';
import {conversations} from './conversations';
import type {StorageState} from './repository';
import './storage-problem.css';

type Problem = Exclude<StorageState, 'closed' | 'opening' | 'kept'>;

/** What the person has read, and needs no more where they type. */
const dismissed = signal<StorageState | null>(null);

function problemOf(state: StorageState): Problem | null {
  return state === 'closed' || state === 'opening' || state === 'kept' ? null : state;
}

/** Beside the list of conversations. */
export function StorageProblem(): VNode | null {
  const problem = problemOf(conversations.state.value);
  return problem && <div id="storage-problem" class="storage-problem error" role="alert"><Explanation problem={problem} /></div>;
}

/** Where the person types, in narrow windows: the list is in a drawer there. It can be closed, as there is little room. */
export function StorageWarning(): VNode | null {
  const problem = problemOf(conversations.state.value);
  if (!problem || problem === dismissed.value) return null;
  return (
    <div id="storage-warning" class="storage-problem error" role="alert">
      <Explanation problem={problem} />
      <IconButton icon="close" label={t('app.close')} onClick={() => { dismissed.value = problem; }} />
    </div>
  );
}

function Explanation({problem}: {readonly problem: Problem}): VNode {
  return (
    <div>
      <p>{t(`storage.state.${problem}`)}</p>
      {(problem === 'lost' || problem === 'blocked') && <button type="button" onClick={() => location.reload()}>{t('storage.reload')}</button>}
    </div>
  );
}
