/** The frame of the page: a sidebar and the view that the route names. */
import type {ComponentType, VNode} from 'preact';
import {useEffect, useRef} from 'preact/hooks';
import {ChatView} from '../chat/chat-view';
import {t} from '../i18n/i18n';
import {CannotStart} from '../onboarding/cannot-start';
import {Welcome} from '../onboarding/welcome';
import {startProblem, startSession, watchSession} from '../session/login-flow';
import {LoggedOut} from '../session/logged-out';
import {LoginDialog} from '../session/login-dialog';
import {MachineDialog} from '../session/machine-dialog';
import {user} from '../session/session';
import {PathLine} from '../status/path-line';
import {watchStatus} from '../status/status-store';
import {showsSyncDialog} from '../storage/sync-status';
import {IconButton} from '../ui/button';
import {Confirmation} from '../ui/confirmation';
import {Lazy} from '../ui/lazy';
import {Toasts} from '../ui/toast';
import './layout.css';
import {watchUpdates} from './page-update';
import {navigate, route, type View} from './router';
import {showsShortcuts, watchShortcuts} from './shortcuts';
import {openDrawer, Sidebar} from './sidebar';
import {UpdateBanner} from './update-banner';
import {viewTitle, watchTitle} from './title';
import {watchViewFocus} from './view-focus';
import {isNarrow} from './viewport';

type LateView = Exclude<View, 'chat'>;

/** The views that are loaded when they are first shown. */
const LATE: Readonly<Record<LateView, () => Promise<{readonly default: ComponentType}>>> = {
  settings: () => import('../settings/settings-view'),
  privacy: () => import('../settings/privacy-view'),
  models: () => import('../models/models-view'),
  status: () => import('../status/status-view'),
  setup: () => import('../onboarding/setup-view'),
};
/** These say nothing about a person. */
const FOR_EVERYBODY: readonly View[] = ['privacy', 'status'];

const loadSyncDialog = (): Promise<{readonly default: ComponentType}> => import('../storage/sync-dialog');
const loadShortcuts = (): Promise<{readonly default: ComponentType}> => import('./shortcuts-dialog');

function CurrentView(): VNode | null {
  const {view} = route.value;
  const person = user.value;
  if (person === undefined) return startProblem.value ? <CannotStart /> : null;
  if (person === null && !FOR_EVERYBODY.includes(view)) return <LoggedOut />;
  // What one person sees, or has begun, is not for the next one.
  if (view !== 'chat') return <Lazy key={`${view} ${person?.id}`} load={LATE[view]} />;
  return <div class="chat-area" key={person?.id}><Welcome><h1 class="visually-hidden">{viewTitle.value || t('app.newChat')}</h1><ChatView /></Welcome></div>;
}

/** On narrow screens, where the sidebar is a drawer. */
function TopBar(): VNode {
  return (
    <header class="top-bar">
      <IconButton id="open-drawer" icon="menu" label={t('app.menu')} onClick={openDrawer} />
      <PathLine />
      {user.value && <IconButton icon="add" label={t('app.newChat')} onClick={() => navigate('chat')} />}
    </header>
  );
}

export function App(): VNode {
  const main = useRef<HTMLElement>(null);
  useEffect(() => {
    const stops = [watchTitle(), watchShortcuts(), watchSession(), watchStatus(), watchUpdates(import.meta.url)];
    if (main.current) stops.push(watchViewFocus(main.current));
    void startSession();
    return () => stops.forEach(stop => stop());
  }, []);
  return (
    <div class="frame">
      <a class="skip-link" href="#main" onClick={event => { event.preventDefault(); main.current?.focus(); }}>{t('app.skip')}</a>
      {isNarrow.value && <TopBar />}
      <Sidebar />
      <main id="main" class="view" ref={main} tabIndex={-1}><UpdateBanner /><CurrentView /></main>
      {showsShortcuts.value && <Lazy load={loadShortcuts} />}
      {showsSyncDialog.value && user.value && <Lazy load={loadSyncDialog} />}
      <LoginDialog />
      <MachineDialog />
      <Confirmation />
      <Toasts />
    </div>
  );
}
