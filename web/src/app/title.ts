/** The title of the document: of the view, and while the model answers. */
import {computed, effect} from '@preact/signals';
import {currentAnswer, shown} from '../chat/chat-store';
import {t, type TextKey} from '../i18n/i18n';
import {formatTitle} from './format-title';
import {route, type View} from './router';

const TITLES: Readonly<Record<Exclude<View, 'chat'>, TextKey>> = {
  settings: 'app.settings', models: 'app.models', status: 'app.status', privacy: 'app.privacy', setup: 'app.setup',
};

/** The title of the view that is shown; '' for a new chat. */
export const viewTitle = computed(() => {
  const {view, id} = route.value;
  if (view !== 'chat') return t(TITLES[view]);
  return id ? (shown.value?.title.value ?? '') : '';
});

/** Keeps the title of the document current until the returned function is called. */
export function watchTitle(): () => void {
  return effect(() => {
    const isBusy = route.value.view === 'chat' && currentAnswer.value !== null;
    document.title = formatTitle(viewTitle.value, isBusy);
  });
}
