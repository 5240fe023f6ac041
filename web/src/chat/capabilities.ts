/** What models can do, as Ollama says. */
import {signal} from '@preact/signals';
import {isObject, readJson} from '../api/http';
import {authorizedRequest, desktopHeader} from '../session/session';
import type {Choice} from './model-options';

/** By desktop and model. */
const known = signal<ReadonlyMap<string, readonly string[]>>(new Map());
const asked = new Set<string>();

/** Returns what a model can do, such as "vision"; null until that is known. */
export function capabilitiesOf(choice: Choice): readonly string[] | null {
  return known.value.get(keyOf(choice)) ?? null;
}

/** Asks for the capabilities of a model, once. Without a response they stay unknown. */
export async function loadCapabilities(choice: Choice): Promise<void> {
  const key = keyOf(choice);
  if (asked.has(key)) return;
  asked.add(key);
  try {
    const response = await authorizedRequest('POST', '/api/show', {body: {model: choice.model}, headers: desktopHeader(choice.desktop)});
    const body = await readJson(response);
    const list = isObject(body) ? body['capabilities'] : undefined;
    if (Array.isArray(list)) known.value = new Map(known.value).set(key, list.filter(each => typeof each === 'string'));
  } catch {
    asked.delete(key); // asked again with the next image
  }
}

function keyOf({desktop, model}: Choice): string {
  return `${desktop} ${model}`;
}
