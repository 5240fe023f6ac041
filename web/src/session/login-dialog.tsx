/** The question before a link logs somebody in. */
import type {VNode} from 'preact';
import {t} from '../i18n/i18n';
import {Button} from '../ui/button';
import {Dialog} from '../ui/dialog';
import {loginQuestion} from './login-question';

export function LoginDialog(): VNode | null {
  const question = loginQuestion.value;
  if (!question) return null;
  const {next: {name}, current, answer} = question;
  return (
    <Dialog
      id="login"
      title={t('session.login.title', {name})}
      closesOutside={false}
      onClose={() => answer(false)}
      footer={<>
        <button type="button" id="decline-login" autofocus onClick={() => answer(false)}>
          {current ? t('session.login.stay', {name: current.name}) : t('app.cancel')}
        </button>
        <Button kind="main" id="confirm-login" onClick={() => answer(true)}>{t('session.login.confirm', {name})}</Button>
      </>}
    >
      <p id="login-effect">{current ? t('session.login.change', {name, current: current.name}) : t('session.login.effect', {name})}</p>
      <p class="soft">{t('session.login.warning')}</p>
    </Dialog>
  );
}
