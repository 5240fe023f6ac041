/** A command that connects a desktop of the person who is logged in: it works once. */
import {signal} from '@preact/signals';
import {isObject, readJson, RequestError} from '../api/http';
import {t} from '../i18n/i18n';
import {authorizedRequest, user} from '../session/session';

export type Pairing =
  | {readonly state: 'none'}
  | {readonly state: 'requested'}
  | {readonly state: 'ready'; readonly command: string; /** Epoch milliseconds. */ readonly expiresAt: number}
  | {readonly state: 'failed'; readonly message: string};

export const pairing = signal<Pairing>({state: 'none'});

// The command of one person is not for another.
let owner = user.value?.id;
user.subscribe(current => {
  if (current?.id === owner) return;
  owner = current?.id;
  pairing.value = {state: 'none'};
});

/** Asks for a new command; the one before stays valid until it expires. */
export async function requestPairing(): Promise<void> {
  const asker = owner;
  pairing.value = {state: 'requested'};
  const outcome = await readPairing();
  if (owner === asker) pairing.value = outcome;
}

async function readPairing(): Promise<Pairing> {
  try {
    const requestedAt = Date.now();
    const body = await readJson(await authorizedRequest('POST', '/ctllm/session/pairing', {body: {}}));
    const {command, expires_in: lifetime} = isObject(body) ? body : {};
    if (typeof command !== 'string') return {state: 'failed', message: t('onboarding.pairing.failed')};
    const seconds = typeof lifetime === 'number' ? lifetime : Number.MAX_SAFE_INTEGER / 2000;
    return {state: 'ready', command, expiresAt: requestedAt + seconds * 1000};
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    return {state: 'failed', message: error.message};
  }
}
