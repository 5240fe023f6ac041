/** Where the requests of a desktop's own apps go. */
import {useSignal} from '@preact/signals';
import type {VNode} from 'preact';
import {useEffect, useId} from 'preact/hooks';
import {RequestError} from '../api/http';
import {t} from '../i18n/i18n';
import {authorizedRequest, desktopHeader, getJson} from '../session/session';
import {showToast} from '../ui/toast';

const POLICIES = ['auto', 'local', 'cloud', 'never'] as const;
type Policy = (typeof POLICIES)[number];
const PATH = '/ctllm/desktop/preference';

interface PreferenceChoiceProperties {
  /** The id of the desktop. */
  readonly desktop: string;
  readonly name: string;
}

/** Shows nothing for a desktop that does not say. */
export function PreferenceChoice({desktop, name}: PreferenceChoiceProperties): VNode | null {
  const policy = useSignal<Policy | null>(null);
  const id = useId();
  useEffect(() => {
    const controller = new AbortController();
    const options = {headers: desktopHeader(desktop), signal: controller.signal};
    getJson<{readonly routing_policy: string}>(PATH, options).then(
      ({routing_policy: found}) => { policy.value = POLICIES.find(each => each === found) ?? null; },
      () => { policy.value = null; }, // an older desktop, or one that is gone
    );
    return () => controller.abort();
  }, [desktop]);
  const choose = async (next: string): Promise<void> => {
    const before = policy.value;
    policy.value = POLICIES.find(each => each === next) ?? before;
    try {
      await authorizedRequest('PUT', PATH, {body: {routing_policy: policy.value}, headers: desktopHeader(desktop)});
      showToast(t('status.preferenceSaved', {name}));
    } catch (error) {
      policy.value = before;
      if (error instanceof RequestError) showToast(error.message, 'error');
    }
  };
  if (!policy.value) return null;
  return (
    <div class="field">
      <label for={id}>{t('status.preference')}</label>
      <select id={id} class="preference" value={policy.value} onChange={event => void choose(event.currentTarget.value)}>
        {POLICIES.map(each => <option key={each} value={each}>{t(`status.prefer.${each}`)}</option>)}
      </select>
    </div>
  );
}
