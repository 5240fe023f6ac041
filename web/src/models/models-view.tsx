/** The models of each desktop: what they need, which are in memory, and what to do with them. */
import {useSignal} from '@preact/signals';
import type {VNode} from 'preact';
import {useEffect} from 'preact/hooks';
import {navigate} from '../app/router';
import {t} from '../i18n/i18n';
import {desktops} from '../status/status-store';
import {Button} from '../ui/button';
import {View} from '../ui/view';
import {DesktopModelsSection} from './desktop-models-section';
import {modelsByDesktop, refreshLoaded, watchModels} from './model-store';
import './models.css';
import {PullDialog} from './pull-dialog';
import {PullsSection} from './pulls-section';

const LOADED_POLL_MS = 5_000;
/** From how many models on it is of use to search them. */
const SEARCH_FROM = 8;

export default function ModelsView(): VNode {
  const isPulling = useSignal(false);
  const filter = useSignal('');
  useEffect(watchModels, []);
  useEffect(pollLoaded, []);
  const list = desktops.value;
  const canPull = list?.some(({ollama}) => ollama !== 'down') ?? false;
  const count = [...modelsByDesktop.value.values()].reduce((sum, {models}) => sum + models.length, 0);
  return (
    <View
      id="models-view"
      title={t('models.title')}
      actions={canPull && <Button kind="main" icon="download" id="open-pull" onClick={() => { isPulling.value = true; }}>{t('models.pull')}</Button>}
    >
      <PullsSection />
      {list?.length === 0 && (
        <p>{t('models.noDesktop')} <button type="button" onClick={() => navigate('status')}>{t('models.showStatus')}</button></p>
      )}
      {count >= SEARCH_FROM && (
        <label class="field"><span>{t('models.filter')}</span>
          <input type="search" value={filter.value} autocomplete="off" onInput={event => { filter.value = event.currentTarget.value; }} />
        </label>
      )}
      {list?.map(desktop => <DesktopModelsSection key={desktop.id} desktop={desktop} filter={filter.value.trim().toLowerCase()} />)}
      {isPulling.value && <PullDialog onClose={() => { isPulling.value = false; }} />}
    </View>
  );
}

/** Asks what is in memory while the view is shown; nothing says when that changes. */
function pollLoaded(): () => void {
  const controller = new AbortController();
  const timer = setInterval(() => {
    if (document.hidden) return;
    for (const {id, ollama} of desktops.value ?? []) if (ollama !== 'down') void refreshLoaded(id, controller.signal);
  }, LOADED_POLL_MS);
  return () => {
    clearInterval(timer);
    controller.abort();
  };
}
