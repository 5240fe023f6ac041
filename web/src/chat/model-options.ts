/** The models that a person can choose among: those of all desktops. */
import type {Desktop} from '../api/types';
import type {DesktopModels} from '../models/model-store';

export interface ModelOption {
  readonly desktop: string;
  readonly model: string;
  /** Bytes; 0 if unknown. */
  readonly size: number;
  readonly isLoaded: boolean;
  readonly isDemo: boolean;
  /** Whether Ollama asks somebody else's computer for it. */
  readonly isRemote: boolean;
}

export interface DesktopOptions {
  readonly desktop: Desktop;
  readonly options: readonly ModelOption[];
}

/** Returns the models by desktop, in the order of the desktops. Details appear when they are known. */
export function listOptions(desktops: readonly Desktop[], known: ReadonlyMap<string, DesktopModels>): readonly DesktopOptions[] {
  return desktops.map(desktop => ({desktop, options: optionsOf(desktop, known.get(desktop.id))}));
}

function optionsOf(desktop: Desktop, known: DesktopModels | undefined): readonly ModelOption[] {
  const loaded = new Set(known?.loaded.map(({name}) => name));
  const details = new Map(known?.models.map(model => [model.name, model]));
  const names = new Set([...desktop.models, ...(desktop.ollama === 'down' ? [] : details.keys())]);
  return [...names].map(name => ({
    desktop: desktop.id,
    model: name,
    size: details.get(name)?.size ?? 0,
    isLoaded: loaded.has(name),
    isDemo: desktop.ollama === 'demo',
    isRemote: Boolean(details.get(name)?.remote_host),
  }));
}

export interface Choice {
  readonly desktop: string;
  readonly model: string;
}

/** Returns the choice as it can be had now: on another desktop if the chosen one is away; the first model if nothing was chosen. */
export function resolveChoice(lists: readonly DesktopOptions[], wanted: Choice, best: string): Choice | null {
  const all = lists.flatMap(({options}) => options);
  const sameModel = all.filter(({model}) => model === wanted.model);
  const found = sameModel.find(({desktop}) => desktop === wanted.desktop) ?? sameModel.find(({desktop}) => desktop === best) ?? sameModel[0];
  if (found) return {desktop: found.desktop, model: found.model};
  if (wanted.model) return null; // somebody else's model would be a surprise
  const first = all.find(({desktop}) => desktop === best) ?? all[0];
  return first ? {desktop: first.desktop, model: first.model} : null;
}
