/** Instructions with a name, which this browser keeps. */
import {signal} from '@preact/signals';
import {isObject} from '../api/http';
import type {ModelOptions} from '../storage/conversation';
import {readValue, writeValue} from '../session/browser-values';
import type {Instructions} from './chat-store';

export interface Preset extends Instructions {
  readonly name: string;
}

const MAX_PRESETS = 50;
export const MAX_PRESET_NAME = 60;

export const presets = signal<readonly Preset[]>([]);

export function loadPresets(): void {
  presets.value = parsePresets(readValue('browser', 'presets'));
}

/** Adds a preset, in the place of one with the same name. */
export function savePreset(name: string, instructions: Instructions): void {
  const others = presets.peek().filter(each => each.name !== name);
  store([...others, {name, ...instructions}].slice(-MAX_PRESETS));
}

export function deletePreset(name: string): void {
  store(presets.peek().filter(each => each.name !== name));
}

function store(next: readonly Preset[]): void {
  presets.value = next;
  writeValue('browser', 'presets', next.length ? JSON.stringify(next) : '');
}

/** Returns the presets in a stored text; what is none is left out. */
export function parsePresets(stored: string | null): readonly Preset[] {
  try {
    const values: unknown = JSON.parse(stored ?? '[]');
    return Array.isArray(values) ? values.map(readPreset).filter(each => each !== null).slice(0, MAX_PRESETS) : [];
  } catch {
    return [];
  }
}

function readPreset(value: unknown): Preset | null {
  if (!isObject(value)) return null;
  const {name, system, options, think} = value;
  if (typeof name !== 'string' || !name || typeof system !== 'string') return null;
  return {name: name.slice(0, MAX_PRESET_NAME), system, options: readOptions(options), think: readThink(think)};
}

function readOptions(value: unknown): ModelOptions {
  if (!isObject(value)) return {};
  return Object.fromEntries(Object.entries(value).filter((entry): entry is [string, number] => typeof entry[1] === 'number'));
}

function readThink(value: unknown): Instructions['think'] {
  return typeof value === 'boolean' || typeof value === 'string' ? value : null;
}
