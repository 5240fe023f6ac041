/** The sidebar beside the view; on narrow screens it is a drawer, which a bar above the view opens. */
import type {ComponentChildren, VNode} from 'preact';
import {useEffect, useRef} from 'preact/hooks';
import {t} from '../i18n/i18n';
import {PathLine} from '../status/path-line';
import {IconButton} from '../ui/button';
import {Icon} from '../ui/icon';
import {isDrawerOpen, watchDrawer} from './drawer';
import './layout.css';
import {navigate} from './router';

interface FrameProperties {
  readonly sidebar: ComponentChildren;
  /** The view. */
  readonly children: ComponentChildren;
}

export function Frame({sidebar, children}: FrameProperties): VNode {
  const isOpen = isDrawerOpen.value;
  const opener = useRef<HTMLButtonElement>(null);
  const drawer = useRef<HTMLElement>(null);
  useEffect(watchDrawer, []);
  useEffect(() => {
    if (!isOpen) return;
    drawer.current?.querySelector<HTMLElement>('button, a, input')?.focus();
    const element = drawer.current;
    return () => { if (element?.contains(document.activeElement)) opener.current?.focus(); };
  }, [isOpen]);
  return (
    <div class="frame">
      <nav id="sidebar" ref={drawer} class="sidebar" data-open={isOpen} aria-label={t('app.navigation')}>{sidebar}</nav>
      {isOpen && <button type="button" class="curtain" tabIndex={-1} aria-label={t('app.close')} onClick={() => { isDrawerOpen.value = false; }} />}
      <div class="page" inert={isOpen}>
        <header class="topbar">
          <button
            ref={opener}
            type="button"
            class="plain icon-button"
            aria-label={t('app.menu')}
            title={t('app.menu')}
            aria-expanded={isOpen}
            aria-controls="sidebar"
            onClick={() => { isDrawerOpen.value = true; }}
          >
            <Icon name="menu" />
          </button>
          <PathLine />
          <IconButton icon="add" label={t('app.newChat')} onClick={() => navigate('chat')} />
        </header>
        <main class="view">{children}</main>
      </div>
    </div>
  );
}
