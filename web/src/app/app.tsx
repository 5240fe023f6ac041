/** The frame of the page: a sidebar and the view that the route names. */
import type {ComponentType, VNode} from 'preact';
import {useEffect, useRef} from 'preact/hooks';
import {t} from '../i18n/i18n';
import {startSession, watchSession} from '../session/login-flow';
import {LoginDialog} from '../session/login-dialog';
import {MachineDialog} from '../session/machine-dialog';
import {user} from '../session/session';
import {PathLine} from '../status/path-line';
import {watchStatus} from '../status/status-store';
import {conversations} from '../storage/conversations';
import {showsSyncDialog} from '../storage/sync-status';
import {unread} from '../storage/unread';
import {IconButton} from '../ui/button';
import {Confirmation} from '../ui/confirmation';
import {Lazy} from '../ui/lazy';
import {Toasts} from '../ui/toast';
import {CurrentView} from './current-view';
import './layout.css';
import {keepFocus} from './focus-keeper';
import {watchUpdates} from './page-update';
import {navigate} from './router';
import {showsShortcuts, watchShortcuts} from './shortcuts';
import {openDrawer, Sidebar} from './sidebar';
import {UpdateBanner} from './update-banner';
import {watchTitle} from './title';
import {watchViewFocus} from './view-focus';
import {isNarrow} from './viewport';

const loadSyncDialog = (): Promise<{readonly default: ComponentType}> => import('../storage/sync-dialog');
const loadShortcuts = (): Promise<{readonly default: ComponentType}> => import('./shortcuts-dialog');

/** On narrow screens, where the sidebar is a drawer. */
function TopBar(): VNode {
  const hasUnread = conversations.summaries.value.some(({id}) => unread.value.has(id));
  return (
    <header class="top-bar">
      <IconButton id="open-drawer" class={hasUnread ? 'has-unread' : ''} icon="menu" label={t(hasUnread ? 'app.menuUnread' : 'app.menu')} onClick={openDrawer} />
      <PathLine />
      {user.value && <IconButton icon="add" label={t('app.newChat')} onClick={() => navigate('chat')} />}
    </header>
  );
}

export function App(): VNode {
  const main = useRef<HTMLElement>(null);
  useEffect(() => {
    const stops = [watchTitle(), watchShortcuts(), watchSession(), watchStatus(), watchUpdates(import.meta.url)];
    if (main.current) stops.push(watchViewFocus(main.current), keepFocus(main.current));
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
