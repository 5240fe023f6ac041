/** Who is logged in, and the dialogs about logging in. */
import type {VNode} from 'preact';
import {navigate, route} from '../app/router';
import {t} from '../i18n/i18n';
import {logOutWithCopy} from '../storage/browser-copy';
import {Icon} from '../ui/icon';
import {logOut} from './login-flow';
import {user} from './session';

export function Account(): VNode | null {
  const person = user.value;
  if (!person) return null;
  return (
    <div id="account" class="account">
      <p class="soft">{t('session.loggedInAs')} <strong id="user-name">{person.name}</strong></p>
      <div class="account-buttons">
        <button
          id="open-settings"
          type="button"
          class="plain with-icon"
          aria-current={route.value.view === 'settings' ? 'page' : undefined}
          onClick={() => navigate('settings')}
        >
          <Icon name="settings" />{t('app.settings')}
        </button>
        <button id="log-out" type="button" class="plain" onClick={() => void logOutWithCopy(logOut, () => !user.peek())}>{t('app.logOut')}</button>
      </div>
    </div>
  );
}
