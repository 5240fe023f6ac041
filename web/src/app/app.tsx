/** The frame of the page: a sidebar and the view that the route names. */
import type {ComponentType, VNode} from 'preact';
import {useEffect} from 'preact/hooks';
import {ChatView} from '../chat/chat-view';
import {t} from '../i18n/i18n';
import {Welcome} from '../onboarding/welcome';
import {Account} from '../session/account';
import {isLoggedIn} from '../session/session';
import {PathLine} from '../status/path-line';
import {watchStatus} from '../status/status-store';
import {ConversationList} from '../storage/conversation-list';
import {Button} from '../ui/button';
import {Confirmation} from '../ui/confirmation';
import {Icon} from '../ui/icon';
import {Lazy} from '../ui/lazy';
import {Toasts} from '../ui/toast';
import {Frame} from './frame';
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

function Sidebar(): VNode {
  return (
    <>
      <h1>ctllm</h1>
      <p class="soft">{t('app.tagline')}</p>
      <Button icon="add" onClick={() => navigate('chat')}>{t('app.newChat')}</Button>
      <ConversationList />
      <div class="sidebar-links">
        <PathLine />
        {isLoggedIn.value && (
          <button
            type="button"
            class="plain with-icon"
            aria-current={route.value.view === 'models' ? 'page' : undefined}
            onClick={() => navigate('models')}
          >
            <Icon name="model" />{t('app.models')}
          </button>
        )}
      </div>
      <Account />
    </>
  );
}

export function App(): VNode {
  useEffect(watchStatus, []);
  return <><Frame sidebar={<Sidebar />}><CurrentView /></Frame><Confirmation /><Toasts /></>;
}
