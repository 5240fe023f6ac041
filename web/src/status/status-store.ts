/** What this page knows of its connection: polled while it is visible, and at once when that is of use. */
import {computed, effect, signal, untracked} from '@preact/signals';
import {isObject, readJson, request, RequestError} from '../api/http';
import type {Desktop, PageServer, ProxyStatus} from '../api/types';
import {readRole} from '../session/page-role';
import {desktopHeader, getJson, userId} from '../session/session';
import {nextDelaySeconds} from './poll-delay';
import {chooseBestDesktop} from './best-desktop';

/** Whether the server of this page responds. */
export type Reachability = 'unknown' | 'ok' | 'failing' | 'unreachable';

export const isOnline = signal(navigator.onLine);
export const reachability = signal<Reachability>('unknown');
/** Who serves this page; null until it is known. */
export const pageServer = signal<PageServer | null>(null);
/** The round trip of the last request to the server of this page, in milliseconds. */
export const latency = signal<number | null>(null);
/** null while nobody is logged in, or until it is known. */
export const proxy = signal<ProxyStatus | null>(null);
/** Whether the server could not say how the proxy is. */
export const isProxyUnknown = signal(false);
/** The connected desktops of the person; null until they are known. */
export const desktops = signal<readonly Desktop[] | null>(null);
/** What went wrong at the last poll; null if nothing did. */
export const problem = signal<RequestError | null>(null);
/** Epoch milliseconds of the next poll after a failure; null if the last one succeeded. */
export const nextTry = signal<number | null>(null);

export const isOnDesktop = computed(() => pageServer.value?.role === 'desktop');
/** The desktop that answers unless another one is chosen. */
export const bestDesktop = computed(() => chooseBestDesktop(desktops.value ?? []));
/** The header that sends a request to the best desktop. */
export const bestDesktopHeader = computed(() => (bestDesktop.value ? desktopHeader(bestDesktop.value.id) : {}));

let timer = 0;
let running: Promise<void> | null = null;
let isStale = false;
let failures = 0;

/** Polls now. During a poll, another one follows it. */
export function refreshStatus(): Promise<void> {
  clearTimeout(timer);
  if (running) {
    isStale = true;
    return running;
  }
  running = poll().finally(() => {
    running = null;
    if (!isStale) return;
    isStale = false;
    void refreshStatus();
  });
  return running;
}

/** Polls until the returned function is called. */
export function watchStatus(): () => void {
  const refresh = (): void => {
    isOnline.value = navigator.onLine;
    if (!document.hidden) void refreshStatus();
  };
  const onVisibility = (): void => {
    if (document.hidden) clearTimeout(timer);
    else refresh();
  };
  let owner = userId.peek();
  const forgetUser = effect(() => {
    if (userId.value !== owner) forgetAccount();
    owner = userId.value;
    untracked(refresh);
  });
  document.addEventListener('visibilitychange', onVisibility);
  for (const type of ['online', 'offline', 'focus'] as const) addEventListener(type, refresh);
  return () => {
    clearTimeout(timer);
    forgetUser();
    document.removeEventListener('visibilitychange', onVisibility);
    for (const type of ['online', 'offline', 'focus'] as const) removeEventListener(type, refresh);
  };
}

function schedule(seconds: number): void {
  clearTimeout(timer);
  if (document.hidden) return;
  timer = window.setTimeout(() => void refreshStatus(), seconds * 1000);
}

async function poll(): Promise<void> {
  try {
    await readServer();
    await readAccount();
    failures = 0;
    setProblem(null, nextDelaySeconds(0, 0));
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    failures += 1;
    setProblem(error, nextDelaySeconds(failures, error.retryAfter));
  }
}

function setProblem(error: RequestError | null, seconds: number): void {
  problem.value = error;
  nextTry.value = error ? Date.now() + seconds * 1000 : null;
  schedule(seconds);
}

async function readServer(): Promise<void> {
  try {
    // First, because a desktop has no /health, and so that the connection is there when the time is measured.
    const role = pageServer.value?.role ?? (await readRole());
    const startedAt = performance.now();
    const response = await request('GET', role === 'desktop' ? '/ctllm/page' : '/health');
    latency.value = performance.now() - startedAt;
    const body = await readJson(response);
    reachability.value = 'ok';
    isOnline.value = true; // some browsers report no network on a machine without a route
    const version = isObject(body) && typeof body['version'] === 'string' ? body['version'] : '';
    if (pageServer.value?.version !== version) pageServer.value = {role, version};
  } catch (error) {
    latency.value = null;
    isOnline.value = navigator.onLine;
    reachability.value = error instanceof RequestError && error.status ? 'failing' : 'unreachable';
    forgetAccount();
    throw error;
  }
}

async function readAccount(): Promise<void> {
  const owner = userId.peek();
  if (!owner) return;
  const [proxyStatus, list] = await Promise.allSettled([
    isOnDesktop.value ? null : getJson<ProxyStatus>('/ctllm/proxy'),
    getJson<{readonly desktops: readonly Desktop[]}>('/ctllm/desktops'),
  ]);
  if (userId.peek() !== owner) return;
  isProxyUnknown.value = proxyStatus.status === 'rejected';
  proxy.value = proxyStatus.status === 'fulfilled' ? proxyStatus.value : null;
  setDesktops(list.status === 'fulfilled' ? list.value.desktops : null);
  for (const result of [proxyStatus, list]) if (result.status === 'rejected') throw result.reason;
}

/** Keeps the list that is shown, if the new one is the same: then nothing is rendered again. */
function setDesktops(next: readonly Desktop[] | null): void {
  if (JSON.stringify(next) !== JSON.stringify(desktops.value)) desktops.value = next;
}

function forgetAccount(): void {
  proxy.value = null;
  isProxyUnknown.value = false;
  desktops.value = null;
}
