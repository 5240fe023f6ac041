/** The machines whose `ollama` command may use the person's models. */
import {signal} from '@preact/signals';
import {authorizedRequest, getJson, user} from '../session/session';

/** An element of GET /ctllm/machines; times are in epoch seconds. */
export interface Machine {
  readonly id: string;
  readonly name: string;
  readonly fingerprint: string;
  readonly scopes: readonly string[];
  readonly created: number;
  readonly last_used: number | null;
  readonly last_address: string;
}

export const machines = signal<readonly Machine[] | null>(null);

let owner = user.value?.id;
user.subscribe(current => {
  if (current?.id === owner) return;
  owner = current?.id;
  machines.value = null;
});

export async function readMachines(signal?: AbortSignal): Promise<void> {
  const asker = owner;
  const {machines: listed} = await getJson<{readonly machines: readonly Machine[]}>('/ctllm/machines', {signal});
  if (owner === asker) machines.value = listed;
}

export async function renameMachine(id: string, name: string): Promise<void> {
  await authorizedRequest('PATCH', `/ctllm/machines/${encodeURIComponent(id)}`, {body: {name}});
  await readMachines();
}

export async function removeMachine(id: string): Promise<void> {
  await authorizedRequest('DELETE', `/ctllm/machines/${encodeURIComponent(id)}`);
  await readMachines();
}
