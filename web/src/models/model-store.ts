/** The models of each desktop, and which of them are in memory. */
import {effect, signal, untracked} from '@preact/signals';
import {RequestError} from '../api/http';
import type {Desktop, LoadedModel, Model} from '../api/types';
import {authorizedRequest, desktopHeader, getJson} from '../session/session';
import {desktops} from '../status/status-store';

export interface DesktopModels {
  readonly models: readonly Model[];
  /** The models in memory. */
  readonly loaded: readonly LoadedModel[];
  /** Why the lists could not be read; ''. */
  readonly error: string;
}

/** By the id of the desktop. A desktop whose models are not known yet is missing. */
export const modelsByDesktop = signal<ReadonlyMap<string, DesktopModels>>(new Map());

/** What the lists were read for: they are read again when Ollama, or its models, change. */
const readFor = new Map<string, string>();

/** Keeps the lists current until the returned function is called. */
export function watchModels(): () => void {
  return effect(() => {
    const list = desktops.value;
    if (list) untracked(() => follow(list));
  });
}

function follow(list: readonly Desktop[]): void {
  const ids = new Set(list.map(({id}) => id));
  for (const id of readFor.keys()) if (!ids.has(id)) readFor.delete(id);
  if ([...modelsByDesktop.value.keys()].some(id => !ids.has(id))) {
    modelsByDesktop.value = new Map([...modelsByDesktop.value].filter(([id]) => ids.has(id)));
  }
  for (const {id, ollama, version, models} of list) {
    const key = JSON.stringify([ollama, version, models]);
    if (readFor.get(id) === key) continue;
    readFor.set(id, key);
    if (ollama === 'down') set(id, {models: [], loaded: [], error: ''});
    else void refreshModels(id);
  }
}

/** Reads the lists of a desktop again. */
export async function refreshModels(desktop: string, signal?: AbortSignal): Promise<void> {
  const options = {headers: desktopHeader(desktop), signal};
  try {
    const [tags, ps] = await Promise.all([
      getJson<{readonly models: readonly Model[] | null}>('/api/tags', options),
      getJson<{readonly models: readonly LoadedModel[] | null}>('/api/ps', options),
    ]);
    set(desktop, {models: tags.models ?? [], loaded: ps.models ?? [], error: ''});
  } catch (error) {
    if (!(error instanceof RequestError)) return; // aborted
    readFor.delete(desktop);
    const before = modelsByDesktop.value.get(desktop);
    set(desktop, {models: before?.models ?? [], loaded: before?.loaded ?? [], error: error.message});
  }
}

/** Reads which models of a desktop are in memory. */
export async function refreshLoaded(desktop: string, signal?: AbortSignal): Promise<void> {
  const before = modelsByDesktop.value.get(desktop);
  if (!before) return refreshModels(desktop, signal);
  try {
    const options = {headers: desktopHeader(desktop), signal};
    const {models} = await getJson<{readonly models: readonly LoadedModel[] | null}>('/api/ps', options);
    set(desktop, {...(modelsByDesktop.value.get(desktop) ?? before), loaded: models ?? []});
  } catch (error) {
    if (!(error instanceof RequestError) && !signal?.aborted) throw error;
  }
}

/** Removes a model from memory. */
export async function unloadModel(desktop: string, model: string): Promise<void> {
  await authorizedRequest('POST', '/api/generate', {body: {model, keep_alive: 0, stream: false}, headers: desktopHeader(desktop)});
  await refreshLoaded(desktop);
}

/** Deletes a model from the desktop's disk. */
export async function deleteModel(desktop: string, model: string): Promise<void> {
  await authorizedRequest('DELETE', '/api/delete', {body: {model}, headers: desktopHeader(desktop)});
  await refreshModels(desktop);
}

/** Gives a model a second name. */
export async function copyModel(desktop: string, source: string, destination: string): Promise<void> {
  await authorizedRequest('POST', '/api/copy', {body: {source, destination}, headers: desktopHeader(desktop)});
  await refreshModels(desktop);
}

function set(desktop: string, next: DesktopModels): void {
  const before = modelsByDesktop.value.get(desktop);
  if (before && JSON.stringify(before) === JSON.stringify(next)) return;
  modelsByDesktop.value = new Map(modelsByDesktop.value).set(desktop, next);
}
