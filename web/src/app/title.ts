/** The title of the document: of the view, and while the model answers. */
import {computed, effect, signal} from '@preact/signals';
import {t, type TextKey} from '../i18n/i18n';
import {route, type View} from './router';

/** The title of the conversation that is shown; '' for a new one. */
export const conversationTitle = signal('');
/** Whether the conversation that is shown is being answered. */
export const isGenerating = signal(false);

const TITLES: Readonly<Record<Exclude<View, 'chat'>, TextKey>> = {
  settings: 'app.settings', models: 'app.models', status: 'app.status', privacy: 'app.privacy',
};

/** The title of the view that is shown; '' for a new chat. */
export const viewTitle = computed(() => {
  const {view, id} = route.value;
  if (view !== 'chat') return t(TITLES[view]);
  return id ? conversationTitle.value : '';
});

/** Returns the title of the document. */
export function formatTitle(title: string, isBusy: boolean): string {
  const name = title ? `${title} · ctllm` : 'ctllm';
  return isBusy ? `● ${name}` : name;
}

/** Keeps the title of the document current until the returned function is called. */
export function watchTitle(): () => void {
  return effect(() => {
    const isBusy = route.value.view === 'chat' && isGenerating.value;
    document.title = formatTitle(viewTitle.value, isBusy);
  });
}
