/** What people may sign in with at this cloud. */
import {readJson, request} from '../api/http';
import type {Provider} from '../api/types';
import {keepMachine, pendingMachine} from './machine-request';

let asked: Promise<readonly Provider[]> | null = null;

/** Returns the providers of this cloud; asks it once. Throws a RequestError. */
export function loadProviders(): Promise<readonly Provider[]> {
  asked ??= requestProviders().catch((error: unknown) => {
    asked = null;
    throw error;
  });
  return asked;
}

async function requestProviders(): Promise<readonly Provider[]> {
  const body = await readJson<{readonly providers: readonly Provider[]}>(await request('GET', '/ctllm/providers'));
  return body.providers;
}

/** Returns the provider of a user's id, whose beginning is the provider's issuer. */
export function findProvider(providers: readonly Provider[], userId: string): Provider | undefined {
  return providers.find(({issuer}) => userId.startsWith(`${issuer.replace(/\/$/, '')}|`));
}

/** Whether the desktop's own window shows this page. It has no address bar, so nobody should enter a password there. */
export function isDesktopWindow(): boolean {
  return navigator.userAgent.startsWith('ctllm-window/');
}

/** Leaves the page for the provider's. */
export function signIn(provider: string, asksPassword: boolean): void {
  keepMachine(pendingMachine());
  location.assign(`/ctllm/login?provider=${encodeURIComponent(provider)}${asksPassword ? '&fresh=1' : ''}`);
}
