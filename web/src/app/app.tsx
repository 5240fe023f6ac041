/** The frame of the page: a sidebar and the view that the route names. */
import type {ComponentType, VNode} from 'preact';
import {useEffect} from 'preact/hooks';
import {ChatView} from '../chat/chat-view';
import {t} from '../i18n/i18n';
import {Welcome} from '../onboarding/welcome';
import {Account} from '../session/account';
import {ConversationList} from '../storage/conversation-list';
import {watchStatus} from '../status/status-store';
import {Confirmation} from '../ui/confirmation';
import {Lazy} from '../ui/lazy';
import {Toasts} from '../ui/toast';
import './layout.css';
import {navigate, route, type View} from './router';

type LateView = Exclude<View, 'chat'>;

/** The views that are loaded when they are first shown. */
const LATE: Readonly<Record<LateView, () => Promise<{readonly default: ComponentType}>>> = {
  settings: () => import('../settings/settings-view'),
  privacy: () => import('../settings/privacy-view'),
  models: () => import('../models/models-view'),
  status: () => import('../status/status-view'),
};

function CurrentView(): VNode {
  const {view} = route.value;
  if (view !== 'chat') return <Lazy key={view} load={LATE[view]} />;
  return <><Welcome /><ChatView /></>;
}

export function App(): VNode {
  useEffect(watchStatus, []);
  return (
    <div class="frame">
      <nav class="sidebar">
        <h1>ctllm</h1>
        <p class="soft">{t('app.tagline')}</p>
        <button type="button" onClick={() => navigate('chat')}>{t('app.newChat')}</button>
        <ConversationList />
        <Account />
      </nav>
      <main class="view"><CurrentView /></main>
      <Confirmation />
      <Toasts />
    </div>
  );
}
