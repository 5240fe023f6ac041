/** The first run on a machine: what is there, and what the person did about it. */
import {signal} from '@preact/signals';
import {RequestError} from '../api/http';
import {authorizedRequest, getJson} from '../session/session';
import {showToast} from '../ui/toast';
import {t} from '../i18n/i18n';

/** A login that the page began, as the desktop reports it. */
export interface LoginProgress {
  readonly state: 'choose' | 'code' | 'browser' | 'running' | 'complete' | 'failed';
  readonly url: string;
  readonly user_code: string;
  readonly message: string;
  readonly providers: readonly {readonly name: string; readonly title: string}[];
  /** The QR code of `url`, if any device may open it: rows of modules, of which '1' is dark. Older desktops send none. */
  readonly qr_code?: readonly string[];
}

/** GET /ctllm/desktop/setup. */
export interface Setup {
  readonly ollama: {readonly state: 'up' | 'demo' | 'down'; readonly url: string; readonly version: string};
  readonly cloud: {readonly state: string; readonly url: string; readonly user: string; readonly message: string};
  readonly tray: {readonly installed: boolean; readonly autostart: boolean};
  readonly system: 'linux' | 'darwin' | 'windows';
  readonly login: LoginProgress | null;
}

const KEY = 'ctllm-setup-done';
const POLL_MS = 2_000;

export const setup = signal<Setup | null>(null);
/** Why the desktop could not say what is there; ''. */
export const setupError = signal('');
/** Whether the person has been through the steps in this browser, or put them off. */
export const isSetupDone = signal(readDone());

export function finishSetup(): void {
  isSetupDone.value = true;
  try {
    localStorage.setItem(KEY, '1');
  } catch {
    // A browser may forbid it. Then the steps are shown again.
  }
}

function readDone(): boolean {
  try {
    return localStorage.getItem(KEY) !== null;
  } catch {
    return false;
  }
}

/** Keeps `setup` current until the returned function is called. */
export function watchSetup(): () => void {
  const controller = new AbortController();
  const refresh = (): void => void refreshSetup(controller.signal);
  refresh();
  const timer = setInterval(() => { if (!document.hidden) refresh(); }, POLL_MS);
  return () => {
    clearInterval(timer);
    controller.abort();
  };
}

async function refreshSetup(signal?: AbortSignal): Promise<void> {
  try {
    const next = await getJson<Setup>('/ctllm/desktop/setup', {signal});
    setupError.value = '';
    if (JSON.stringify(next) !== JSON.stringify(setup.value)) setup.value = next;
  } catch (error) {
    if (error instanceof RequestError) setupError.value = error.message;
    else if (!signal?.aborted) throw error;
  }
}

/** Begins to log this machine in to a cloud, by its address or an invite link. */
export async function beginLogin(cloud: string, provider = ''): Promise<void> {
  const body = provider ? {cloud, provider} : {cloud};
  await change(authorizedRequest('POST', '/ctllm/desktop/setup/login', {body}));
}

export async function cancelLogin(): Promise<void> {
  await change(authorizedRequest('DELETE', '/ctllm/desktop/setup/login'));
}

/** Makes desktop and icon start with the session of the person, or no longer. */
export async function setAutostart(enabled: boolean): Promise<void> {
  await change(authorizedRequest('POST', '/ctllm/desktop/setup/autostart', {body: {enabled}}));
}

async function change(request: Promise<Response>): Promise<void> {
  try {
    await request;
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    showToast(t('onboarding.setup.failed', {problem: error.message}), 'error');
  }
  await refreshSetup();
}
