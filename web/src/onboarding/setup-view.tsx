/** The first run on a machine, in steps that can each be skipped. */
import {signal} from '@preact/signals';
import type {ComponentType, VNode} from 'preact';
import {useEffect, useRef} from 'preact/hooks';
import {navigate} from '../app/router';
import {t, type TextKey} from '../i18n/i18n';
import {bestDesktop} from '../status/status-store';
import {Button} from '../ui/button';
import {QrCode} from '../ui/qr-code';
import {CommandsBySystem, Command, system} from './command';
import {FirstModel} from './no-model';
import {Waiting} from './screen';
import {beginLogin, cancelLogin, finishSetup, setAutostart, setup, setupError, watchSetup, type LoginProgress, type Setup} from './setup-store';
import {INSTALL_OLLAMA, START_OLLAMA} from './system';

interface Step {
  readonly name: TextKey;
  readonly Content: ComponentType<{readonly known: Setup}>;
}

const STEPS: readonly Step[] = [
  {name: 'onboarding.setup.ollama', Content: OllamaStep},
  {name: 'onboarding.setup.cloud', Content: CloudStep},
  {name: 'onboarding.setup.model', Content: ModelStep},
  {name: 'onboarding.setup.tray', Content: TrayStep},
];

const current = signal(0);

export default function SetupView(): VNode {
  useEffect(watchSetup, []);
  const known = setup.value;
  const index = current.value;
  const step = STEPS[index];
  useEffect(() => { if (known) system.value = known.system === 'darwin' ? 'macos' : known.system; }, [known?.system]);
  const leave = (): void => {
    finishSetup();
    current.value = 0;
    navigate('chat');
  };
  const isLast = index === STEPS.length - 1;
  return (
    <section id="setup" class="screen" aria-labelledby="setup-title">
      <h1 id="setup-title">{t('onboarding.setup.title')}</h1>
      <Progress index={index} />
      {setupError.value && <p class="error" role="alert">{t('onboarding.setup.failed', {problem: setupError.value})}</p>}
      {step && <StepTitle key={index} index={index} name={step.name} />}
      {known && step && <step.Content known={known} />}
      <div class="setup-buttons">
        {index > 0 && <Button id="setup-back" kind="plain" icon="back" onClick={() => { current.value -= 1; }}>{t('onboarding.setup.back')}</Button>}
        <Button id="setup-next" kind="main" onClick={isLast ? leave : () => { current.value += 1; }}>
          {t(isLast ? 'onboarding.setup.finish' : known && isOpen(index, known) ? 'onboarding.setup.skip' : 'onboarding.setup.next')}
        </Button>
        {!isLast && <Button id="setup-later" kind="plain" onClick={leave}>{t('onboarding.setup.later')}</Button>}
      </div>
      <p class="soft">{t('onboarding.setup.again')}</p>
    </section>
  );
}

/** Whether a step has something to do still. */
function isOpen(index: number, {ollama, cloud, tray}: Setup): boolean {
  return [ollama.state !== 'up', !isConnected(cloud.state), ollama.state !== 'up' || bestDesktop.value?.models.length === 0, !tray.autostart][index] ?? false;
}

function isConnected(state: string): boolean {
  return state === 'connected' || state === 'degraded';
}

function Progress({index}: {readonly index: number}): VNode {
  return (
    <ol class="setup-steps" aria-label={t('onboarding.setup.steps')}>
      {STEPS.map(({name}, each) => (
        <li key={name} data-done={each < index} {...(each === index ? {'aria-current': 'step' as const} : {})}>{t(name)}</li>
      ))}
    </ol>
  );
}

/** Has the focus after each step, so that a screen reader begins there. */
function StepTitle({index, name}: {readonly index: number; readonly name: TextKey}): VNode {
  const title = useRef<HTMLHeadingElement>(null);
  useEffect(() => { if (index > 0) title.current?.focus(); }, []);
  return <h2 ref={title} tabIndex={-1}>{t('onboarding.setup.step', {number: index + 1, count: STEPS.length, name: t(name)})}</h2>;
}

function OllamaStep({known: {ollama}}: {readonly known: Setup}): VNode {
  if (ollama.state === 'up') return <p>{t('onboarding.setup.ollamaUp', {version: ollama.version, url: ollama.url})}</p>;
  return (
    <>
      <p>{t('onboarding.setup.ollamaDown', {url: ollama.url})}</p>
      <CommandsBySystem commands={START_OLLAMA} />
      <p>{t('onboarding.setup.ollamaInstall')}</p>
      <Command text={INSTALL_OLLAMA[system.value]} />
      {ollama.state === 'demo' && <p class="soft">{t('onboarding.setup.ollamaDemo')}</p>}
      <Waiting>{t('onboarding.ollama.wait')}</Waiting>
    </>
  );
}

function CloudStep({known: {cloud, login}}: {readonly known: Setup}): VNode {
  if (isConnected(cloud.state)) return <p id="setup-connected">{t('onboarding.setup.cloudConnected', {url: cloud.url, user: cloud.user})}</p>;
  const isBusy = login !== null && login.state !== 'failed' && login.state !== 'complete';
  return (
    <>
      <p>{t('onboarding.setup.cloudWhat')}</p>
      {login?.state === 'failed' && <p class="error" role="alert">{login.message}</p>}
      {isBusy ? <LoginInProgress login={login} /> : <LoginForm />}
    </>
  );
}

/** What was entered: the choice of a provider needs it again. */
const address = signal('');

function LoginForm(): VNode {
  const submit = (event: SubmitEvent): void => {
    event.preventDefault();
    const entered = address.value.trim();
    if (!entered) return;
    void beginLogin(entered.includes('://') ? entered : `https://${entered}`);
  };
  return (
    <form class="stack" onSubmit={submit}>
      <label class="field">{t('onboarding.setup.cloudAddress')}
        <input
          id="setup-cloud"
          inputMode="url"
          autocomplete="off"
          autocapitalize="off"
          spellcheck={false}
          placeholder="https://"
          value={address.value}
          onInput={({currentTarget}) => { address.value = currentTarget.value; }}
        />
      </label>
      <Button id="setup-login" type="submit">{t('onboarding.setup.logIn')}</Button>
    </form>
  );
}

function LoginInProgress({login: {state, url, user_code: code, providers, qr_code: qrCode = []}}: {readonly login: LoginProgress}): VNode {
  return (
    <div class="stack">
      {state === 'choose' && <p>{t('onboarding.setup.choose')}</p>}
      {state === 'choose' && providers.map(({name, title}) => (
        <Button key={name} onClick={() => void beginLogin(address.value, name)}>{t('session.signIn', {title})}</Button>
      ))}
      {state === 'code' && <p>{t('onboarding.setup.code')}</p>}
      {state === 'browser' && <p>{t('onboarding.setup.browser')}</p>}
      {isWebAddress(url) && <p><a href={url} target="_blank" rel="noopener noreferrer">{t('onboarding.setup.openPage', {host: new URL(url).host})}</a></p>}
      {code && <p class="user-code"><code>{code}</code></p>}
      {qrCode.length > 0 && isWebAddress(url) && (
        <>
          <p>{t('onboarding.setup.scan')}</p>
          <QrCode rows={qrCode} label={t('onboarding.setup.qrCode', {host: new URL(url).host})} />
        </>
      )}
      {state !== 'choose' && <Waiting>{t('onboarding.setup.waiting')}</Waiting>}
      <Button onClick={() => void cancelLogin()}>{t('app.cancel')}</Button>
    </div>
  );
}

/** The desktop checks that, too: the cloud decides what the address is. */
function isWebAddress(url: string): boolean {
  return URL.canParse(url) && ['http:', 'https:'].includes(new URL(url).protocol);
}

function ModelStep({known: {ollama}}: {readonly known: Setup}): VNode {
  const [first] = bestDesktop.value?.models ?? [];
  if (ollama.state !== 'up') return <p>{t('onboarding.setup.modelNone')}</p>;
  return first ? <p>{t('onboarding.setup.modelReady', {name: first})}</p> : <FirstModel />;
}

function TrayStep({known: {tray}}: {readonly known: Setup}): VNode {
  return (
    <>
      <p>{t('onboarding.setup.trayWhat')}</p>
      <label class="tick">
        <input id="setup-autostart" type="checkbox" checked={tray.autostart} onChange={({currentTarget: box}) => void setAutostart(box.checked).then(() => { box.checked = setup.value?.tray.autostart ?? false; })} />
        {t('onboarding.setup.autostart')}
      </label>
      {!tray.installed && <><p>{t('onboarding.setup.trayMissing')}</p><Command text="pip install 'ctllm[tray]'" /></>}
    </>
  );
}
