/** API keys of the person: what programs use instead of a login. */
import {signal} from '@preact/signals';
import {readJson} from '../api/http';
import {authorizedRequest, getJson, user} from '../session/session';

export type KeyScope = 'use' | 'manage';

/** An element of GET /ctllm/keys; times are in epoch seconds. */
export interface ApiKey {
  readonly id: string;
  readonly name: string;
  readonly scopes: readonly KeyScope[];
  /** The only models that it may use; all if there are none. */
  readonly models?: readonly string[] | null;
  readonly requests_per_minute?: number | null;
  readonly expires_at?: number | null;
  readonly last_used?: number | null;
  readonly last_address?: string | null;
  /** The id of the desktop that keeps it. */
  readonly desktop?: string | null;
  /** Whether its desktop has stored it; a key that it did not store in time has failed. */
  readonly state?: 'pending' | 'confirmed' | 'failed';
  /** Why it has failed. */
  readonly message?: string | null;
}

export interface NewKey {
  readonly name: string;
  readonly scopes: readonly KeyScope[];
  readonly models: readonly string[];
  /** Seconds; null for a key that does not expire. */
  readonly expiresIn: number | null;
  /** null for as many as the account may send. */
  readonly requestsPerMinute: number | null;
  /** The id of the desktop that keeps it; '' if there is only one. */
  readonly desktop: string;
}

/** A key that was just created, which nobody can see again. It is forgotten with the settings, or the login. */
export interface CreatedKey {
  readonly id: string;
  readonly name: string;
  readonly key: string;
}

export const apiKeys = signal<readonly ApiKey[] | null>(null);
export const createdKey = signal<CreatedKey | null>(null);

let owner = user.value?.id;
user.subscribe(current => {
  if (current?.id === owner) return;
  owner = current?.id;
  apiKeys.value = null;
  createdKey.value = null;
});

/** Reads the list again. Throws as `request`. */
export async function readApiKeys(signal?: AbortSignal): Promise<void> {
  const asker = owner;
  const {keys} = await getJson<{readonly keys: readonly ApiKey[]}>('/ctllm/keys', {signal});
  if (owner === asker) apiKeys.value = keys;
}

export function keyRequest({name, scopes, models, expiresIn, requestsPerMinute, desktop}: NewKey): Readonly<Record<string, unknown>> {
  return {
    name: name.trim(),
    scopes,
    ...(models.length ? {models} : {}),
    ...(expiresIn === null ? {} : {expires_in: expiresIn}),
    ...(requestsPerMinute === null ? {} : {requests_per_minute: requestsPerMinute}),
    ...(desktop ? {desktop} : {}),
  };
}

export async function createApiKey(options: NewKey): Promise<CreatedKey> {
  const asker = owner;
  const response = await authorizedRequest('POST', '/ctllm/keys', {body: keyRequest(options)});
  const {id, key} = await readJson<{readonly id: string; readonly key: string}>(response);
  const created = {id, key, name: options.name.trim()};
  if (owner === asker) createdKey.value = created;
  return created;
}

export async function revokeApiKey(id: string): Promise<void> {
  await authorizedRequest('DELETE', `/ctllm/keys/${encodeURIComponent(id)}`);
  if (createdKey.value?.id === id) createdKey.value = null;
  if (apiKeys.value) apiKeys.value = apiKeys.value.filter(each => each.id !== id);
}
