/** How the page comes to its session: by the cookie, by a link, or by the redirect of a provider. */
import {effect, signal, untracked} from '@preact/signals';
import {isObject, readJson, request, RequestError, withTimeout} from '../api/http';
import type {AccessToken, User} from '../api/types';
import {forgetConversation} from '../app/router';
import {t} from '../i18n/i18n';
import {declineQuestion} from '../ui/confirmation';
import {clearToasts, showToast} from '../ui/toast';
import {readParameter, takeParameter} from './fragment';
import {asksForPassword, describeLoginError} from './login-errors';
import {askToLogIn, leaveLoginQuestion} from './login-question';
import {answerMachine, leaveMachineQuestion, pendingMachine, recallMachine} from './machine-request';
import {announceUser, watchTabs} from './other-tabs';
import {readRole} from './page-role';
import {isDesktopWindow} from './providers';
import {
  acceptToken, assumeRememberedUser, authorizedRequest, describeEnd, dropToken, finishRenewal, firstRenewal, forgetToken, isConfirmed, user,
} from './session';
import {storeToken} from './stored-token';

/** Why nobody could be logged in yet, and when it is tried again (epoch milliseconds); null if nothing is wrong. */
export const startProblem = signal<{readonly message: string; readonly retryAt: number} | null>(null);
/** Whether the provider should ask for the password, even if it knows the user still. */
export const asksPassword = signal(false);

const RETRY_SECONDS = 4;

let invite: string | null = null;
let retryTimer = 0;
/** The last start; each waits for the one before, even if that failed. */
let lastStart: Promise<void> = Promise.resolve();

/** Finds out who is logged in, and does what the link asks for that opened the page. */
export function startSession(): Promise<void> {
  lastStart = lastStart.then(start, start);
  return lastStart;
}

async function start(): Promise<void> {
  clearTimeout(retryTimer);
  invite = takeParameter('invite') ?? invite;
  const loginError = takeLoginError();
  recallMachine();
  if (!invite && !loginError) assumeRememberedUser();
  try {
    const shown = user.value;
    const refusal = await tryToRenew();
    const problem = await redeemLink();
    startProblem.value = null;
    if (!isConfirmed.value) return showNobody(problem ? t('session.getNewLink', {problem}) : loginError || describeRefusal(refusal, shown));
    if (problem || loginError) showToast(t('session.stillLoggedIn', {problem: problem || loginError}), 'error');
    void answerMachine();
    void startProxy();
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    if (error.endsSession) return showNobody(describeEnd(error));
    assumeRememberedUser();
    retry(error);
  }
}

/** Returns the error of a renewal that the server refused, or null. Throws if it could not be asked. */
async function tryToRenew(): Promise<RequestError | null> {
  try {
    await firstRenewal();
    return null;
  } catch (error) {
    if (error instanceof RequestError && error.endsSession) return error;
    throw error;
  }
}

/** Returns why nobody is logged in; '' if nobody was all along. */
function describeRefusal(refusal: RequestError | null, shown: User | null | undefined): string {
  const wasShown = Boolean(shown) || refusal?.status !== 401;
  return refusal && wasShown ? describeEnd(refusal) : '';
}

function showNobody(reason: string): void {
  forgetToken(reason || (pendingMachine() ? t('session.machine.logIn') : ''));
}

function retry(error: RequestError): void {
  const seconds = error.retryAfter || RETRY_SECONDS;
  startProblem.value = {message: error.message, retryAt: Date.now() + seconds * 1000};
  clearTimeout(retryTimer);
  retryTimer = window.setTimeout(() => void startSession(), seconds * 1000);
}

/** Returns the sentence about a sign-in that the cloud refused. */
function takeLoginError(): string {
  const word = takeParameter('login-error');
  if (!word) return '';
  asksPassword.value = asksForPassword(word);
  return t(describeLoginError(word));
}

/** Logs in with the link that opened the page, if there is one. Returns what is wrong with it, or ''. */
async function redeemLink(): Promise<string> {
  if (!invite) return '';
  try {
    if ((await readRole()) === 'desktop') await redeemDesktopInvite(invite);
    else if (await confirmLogin(invite)) acceptToken(await requestLogin(invite), Date.now());
    invite = null;
    return '';
  } catch (error) {
    if (!(error instanceof RequestError) || (error.status !== 400 && error.status !== 401)) throw error;
    invite = null;
    return t('session.linkExpired');
  }
}

async function requestLogin(code: string): Promise<AccessToken> {
  const body = {invite: code, client: 'browser'};
  return withTimeout({body}, async options => readJson<AccessToken>(await request('POST', '/ctllm/session', options)));
}

/** A desktop has one user, so a link of another site can log in nobody else. */
async function redeemDesktopInvite(code: string): Promise<void> {
  const token = await requestLogin(code);
  storeToken(token);
  acceptToken(token, Date.now());
}

/** Asks before a link logs in somebody else. No other page can open links in the desktop's own window. */
async function confirmLogin(code: string): Promise<boolean> {
  const body = await withTimeout({body: {invite: code}}, async options =>
    readJson(await request('POST', '/ctllm/session/introspect', options)));
  const next = isObject(body) ? (body['user'] as User) : null;
  if (!next) return false;
  const current = isConfirmed.value ? (user.value ?? null) : null;
  if (current ? current.id === next.id : isDesktopWindow()) return true;
  return askToLogIn(next, current);
}

/** The proxy of the person starts while they write, not when they send. Its state is shown elsewhere. */
async function startProxy(): Promise<void> {
  if ((await readRole()) === 'desktop') return;
  await authorizedRequest('PUT', '/ctllm/proxy').catch((error: unknown) => {
    if (!(error instanceof RequestError)) throw error;
  });
}

/** Another tab has logged in the user with this id, or logged out (null). */
async function onOtherTab(id: string | null): Promise<void> {
  // Each tab of a desktop's page has a session of its own, which ends when another user logs in on the desktop.
  const isDesktop = (await readRole().catch(() => 'cloud')) === 'desktop';
  if (isDesktop && (id === null || !user.value)) return;
  leaveLoginQuestion();
  leaveMachineQuestion();
  if (id === null) {
    if (user.value) forgetToken(t('session.loggedOutElsewhere'));
    return;
  }
  if (isConfirmed.value && id === user.value?.id) return;
  dropToken();
  await startSession();
  if (isConfirmed.value && user.value) showToast(t('session.loggedInElsewhere', {name: user.value.name}));
}

/** Ends the session here and at the server. */
export async function logOut(): Promise<void> {
  await finishRenewal();
  try {
    await requestLogout();
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    if (!error.endsSession) {
      showToast(t('session.logOutFailed', {problem: error.message}), 'error');
      return startSession();
    }
  }
  forgetToken(t('session.hasLoggedOut'));
  announceUser(null);
}

async function requestLogout(): Promise<void> {
  if ((await readRole()) === 'desktop') await authorizedRequest('DELETE', '/ctllm/session');
  else {
    dropToken(); // prevents another renewal
    await request('DELETE', '/ctllm/session');
  }
}

function onHashChange(): void {
  const hasInvite = readParameter(location.hash, 'invite') !== null;
  const hasMachine = readParameter(location.hash, 'machine') !== null;
  if (!hasInvite && !hasMachine && readParameter(location.hash, 'login-error') === null) return;
  if (hasInvite) leaveLoginQuestion();
  if (hasMachine) leaveMachineQuestion();
  void startSession();
}

/** Removes what is said to whoever was logged in, and asked of them. */
function clearPage(): void {
  clearToasts();
  declineQuestion();
}

/** Follows links, other tabs and the network until the returned function is called. */
export function watchSession(): () => void {
  let announced: string | null = null;
  let shown: string | undefined;
  let former: string | undefined;
  const stopTabs = watchTabs(id => void onOtherTab(id));
  const stopAnnouncing = effect(() => {
    const id = isConfirmed.value ? (user.value?.id ?? null) : null;
    if (id && id !== announced) announceUser(id);
    announced = id;
  });
  const stopAsking = effect(() => {
    const id = user.value?.id;
    if (shown === id) return;
    leaveMachineQuestion(); // it is put to whoever has logged in
    if (shown) untracked(clearPage);
    if (id && former && former !== id) untracked(forgetConversation);
    shown = id;
    former = id ?? former;
  });
  const onOnline = (): void => { if (startProblem.value) void startSession(); };
  addEventListener('hashchange', onHashChange);
  addEventListener('online', onOnline);
  return () => {
    stopTabs();
    stopAnnouncing();
    stopAsking();
    clearTimeout(retryTimer);
    removeEventListener('hashchange', onHashChange);
    removeEventListener('online', onOnline);
  };
}
