/** What is shown in place of a chat while something is missing, with one thing to do about it. */
import {useSignal} from '@preact/signals';
import type {ComponentChildren, VNode} from 'preact';
import {useEffect} from 'preact/hooks';
import {route} from '../app/router';
import {t, type TextKey} from '../i18n/i18n';
import {isConfirmed} from '../session/session';
import {bestDesktop, isOnDesktop} from '../status/status-store';
import {Lazy} from '../ui/lazy';
import {hasDraft} from '../ui/reload-once';
import './onboarding.css';
import {isSetupDone} from './setup-store';
import {fillsTheScreen, missing, type Missing} from './missing';

/** How long something has to be missing: a desktop comes back within a moment when the proxy was restarted. */
const SETTLE_MS = 2_000;

const SENTENCES: Readonly<Record<Exclude<Missing, 'nothing' | 'unknown'>, TextKey>> = {
  network: 'onboarding.network.short',
  server: 'onboarding.server.short',
  desktop: 'onboarding.desktop.short',
  version: 'onboarding.version.short',
  ollama: 'onboarding.ollama.short',
  model: 'onboarding.model.short',
  demo: 'onboarding.demo.short',
};

const loadScreens = () => import('./screens');
const loadSetup = () => import('./setup-view');
const loadDemo = () => import('./demo-help');

/** Shows `children`, the chat, unless something is missing and there is nothing to read. What somebody wrote stays. */
export function Welcome({children}: {readonly children: ComponentChildren}): VNode {
  const shown = useSettled();
  const isNew = route.value.id === '';
  const isFirstRun = isOnDesktop.value && !isSetupDone.value && isConfirmed.value && missing.value !== 'server';
  const isScreen = (isFirstRun || fillsTheScreen(shown)) && isNew && !hasDraft();
  return (
    <>
      {isScreen ? <Lazy key={String(isFirstRun)} load={isFirstRun ? loadSetup : loadScreens} /> : <Banner missing={shown} />}
      <div class="chat-slot" hidden={isScreen}>{children}</div>
    </>
  );
}

/** Returns what is missing once that has been so for a moment. What is there again counts at once. */
function useSettled(): Missing {
  const settled = useSignal<Missing>('unknown');
  const current = missing.value;
  useEffect(() => {
    if (current === settled.value || current === 'unknown') return;
    const isAtOnce = current === 'nothing' || current === 'demo' || settled.value === 'unknown' && current !== 'desktop';
    if (isAtOnce) {
      settled.value = current;
      return;
    }
    const timer = setTimeout(() => { settled.value = current; }, SETTLE_MS);
    return () => clearTimeout(timer);
  }, [current]);
  return settled.value;
}

/** Says above a conversation what is missing. */
function Banner({missing: what}: {readonly missing: Missing}): VNode | null {
  if (what === 'nothing' || what === 'unknown') return null;
  const text = t(SENTENCES[what], {name: bestDesktop.value?.name ?? ''});
  if (what !== 'demo') return <p class="banner" role="status">{text}</p>;
  return (
    <details id="demo-help" class="banner demo">
      <summary>{text}</summary>
      <Lazy load={loadDemo} />
    </details>
  );
}
