/** What is shown to nobody in particular: how to log in, or how to open the page of a desktop. */
import {useSignal} from '@preact/signals';
import type {VNode} from 'preact';
import {useEffect, useRef} from 'preact/hooks';
import type {Provider} from '../api/types';
import {RequestError} from '../api/http';
import {t} from '../i18n/i18n';
import {CopyButton} from '../ui/copy-button';
import {asksPassword} from './login-flow';
import {readRole, type Role} from './page-role';
import {isDesktopWindow, loadProviders, signIn} from './providers';
import {endReason} from './session';

export function LoggedOut(): VNode {
  const role = useSignal<Role | null>(null);
  useEffect(() => {
    let isCurrent = true;
    void readRole().catch((): Role => 'cloud').then(found => { if (isCurrent) role.value = found; });
    return () => { isCurrent = false; };
  }, []);
  const heading = useRef<HTMLHeadingElement>(null);
  useEffect(() => { if (endReason.peek() && !document.querySelector('dialog[open]')) heading.current?.focus(); }, []);
  return (
    <section id="logged-out" class="screen" aria-labelledby="logged-out-title">
      <h1 id="logged-out-title" ref={heading} tabIndex={-1} aria-describedby="logged-out-reason">{t(role.value === 'desktop' ? 'session.desktop.title' : 'session.title')}</h1>
      <p id="logged-out-reason" role="status">{endReason.value}</p>
      {role.value === 'desktop' && <OpenDesktop />}
      {role.value === 'cloud' && <LogIn />}
    </section>
  );
}

/** The page of a desktop opens with a link that only this person's programs can make. */
function OpenDesktop(): VNode {
  return (
    <>
      <p>{t('session.desktop.how')}</p>
      <p class="command"><code>ctllm show</code><CopyButton text="ctllm show" /></p>
      <p class="soft">{t('session.desktop.tray')}</p>
    </>
  );
}

function LogIn(): VNode {
  const providers = useSignal<readonly Provider[]>([]);
  useEffect(() => {
    if (isDesktopWindow()) return;
    let isCurrent = true;
    loadProviders().then(
      found => { if (isCurrent) providers.value = found; },
      (error: unknown) => { if (!(error instanceof RequestError)) throw error; },
    );
    return () => { isCurrent = false; };
  }, []);
  const hasProviders = providers.value.length > 0;
  return (
    <>
      {hasProviders && (
        <div id="providers" class="stack">
          {providers.value.map(({name, title}) => (
            <button key={name} type="button" class="main" onClick={() => signIn(name, asksPassword.value)}>{t('session.signIn', {title})}</button>
          ))}
        </div>
      )}
      <p><span id="invite-hint">{t(hasProviders ? 'session.inviteHintProviders' : 'session.inviteHint')}</span> {t('session.inviteCommand')}</p>
      <p class="command"><code>ctllm invite NAME</code><CopyButton text="ctllm invite " /></p>
      <p class="soft">{t('session.inviteOnce')}</p>
    </>
  );
}
