/** Conversations, views and the account: beside the view, or in a drawer over it on narrow screens. */
import {signal} from '@preact/signals';
import type {VNode} from 'preact';
import {useEffect, useLayoutEffect, useRef} from 'preact/hooks';
import {t} from '../i18n/i18n';
import {Account} from '../session/account';
import {isLoggedIn} from '../session/session';
import {PathLine} from '../status/path-line';
import {ConversationList} from '../storage/conversation-list';
import {IconButton} from '../ui/button';
import {Icon, type IconName} from '../ui/icon';
import {formatRoute, navigate, route, type View} from './router';
import {showsShortcuts} from './shortcuts';
import {isNarrow} from './viewport';

const isDrawerOpen = signal(false);

export function openDrawer(): void {
  isDrawerOpen.value = true;
}

export function Sidebar(): VNode | null {
  if (!isNarrow.value) return <nav class="sidebar" aria-label={t('app.sidebar')}><SidebarContent /></nav>;
  return isDrawerOpen.value ? <Drawer onClose={() => { isDrawerOpen.value = false; }} /> : null;
}

/** A modal dialog: the browser keeps the focus in it and gives it back. */
function Drawer({onClose}: {readonly onClose: () => void}): VNode {
  const dialog = useRef<HTMLDialogElement>(null);
  const opened = useRef(route.value);
  useLayoutEffect(() => {
    const element = dialog.current;
    element?.showModal();
    return () => element?.close();
  }, []);
  const shown = route.value;
  // Who deletes the conversation that is shown comes to a new one, and may undo it here.
  useEffect(() => { if (shown !== opened.current && formatRoute(shown) !== '') onClose(); }, [shown]);
  return (
    <dialog
      ref={dialog}
      class="drawer"
      aria-label={t('app.sidebar')}
      onCancel={event => {
        if (event.target !== dialog.current) return; // of a file chooser in it
        event.preventDefault();
        onClose();
      }}
      onMouseDown={event => { if (event.target === dialog.current) onClose(); }}
    >
      <nav class="sidebar" aria-label={t('app.sidebar')}>
        <SidebarContent close={<IconButton id="close-drawer" icon="close" label={t('app.close')} onClick={onClose} />} onNewChat={onClose} />
      </nav>
    </dialog>
  );
}

interface SidebarContentProperties {
  readonly close?: VNode;
  /** Called also if a new chat was shown before, so that the route does not change. */
  readonly onNewChat?: () => void;
}

function SidebarContent({close, onNewChat}: SidebarContentProperties): VNode {
  return (
    <>
      <div class="brand">
        <img src="/icon.svg" alt="" width="32" height="32" />
        <p><strong>ctllm</strong> <span class="soft">{t('app.tagline')}</span></p>
        {close}
      </div>
      {isLoggedIn.value && (
        <>
          <button id="new-chat" type="button" class="with-icon" onClick={() => { navigate('chat'); onNewChat?.(); }}>
            <Icon name="add" />{t('app.newChat')}
          </button>
          <ConversationList />
        </>
      )}
      <ul class="views">
        {isLoggedIn.value && <ViewLink view="models" icon="model" label={t('app.models')} />}
        <li><PathLine /></li>
        <ViewLink view="privacy" icon="shield" label={t('app.privacy')} />
        <li>
          <button type="button" class="plain with-icon" id="open-shortcuts" onClick={() => { showsShortcuts.value = true; }}>
            <Icon name="info" />{t('app.shortcuts')}
          </button>
        </li>
      </ul>
      <Account />
    </>
  );
}

function ViewLink({view, icon, label}: {readonly view: View; readonly icon: IconName; readonly label: string}): VNode {
  return (
    <li>
      <a
        class="with-icon"
        href={`#view=${view}`}
        aria-current={route.value.view === view ? 'page' : undefined}
        onClick={event => {
          if (event.ctrlKey || event.metaKey || event.shiftKey) return; // in another tab
          event.preventDefault();
          navigate(view);
        }}
      >
        <Icon name={icon} />{label}
      </a>
    </li>
  );
}
