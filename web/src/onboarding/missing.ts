/** What a person still needs before a model answers. */
import {computed} from '@preact/signals';
import type {Desktop, ProxyStatus} from '../api/types';
import {chooseBestDesktop} from '../status/best-desktop';
import {desktops, isOnDesktop, isOnline, problem, proxy, reachability, type Reachability} from '../status/status-store';

export type Missing =
  | 'nothing'
  /** It is not known yet. */
  | 'unknown'
  | 'network'
  /** The server of this page does not respond, or refuses for now. */
  | 'server'
  | 'desktop'
  /** The only desktops are of a version that cannot answer this page. */
  | 'version'
  | 'ollama'
  | 'model'
  /** Ollama: the demo model responds in its place. */
  | 'demo';

export interface Knowledge {
  readonly isOnline: boolean;
  readonly reachability: Reachability;
  readonly isOnDesktop: boolean;
  readonly proxy: ProxyStatus | null;
  readonly desktops: readonly Desktop[] | null;
  /** Whether the last poll failed. */
  readonly hasProblem: boolean;
}

/** What is missing now. */
export const missing = computed(() => findMissing({
  isOnline: isOnline.value,
  reachability: reachability.value,
  isOnDesktop: isOnDesktop.value,
  proxy: proxy.value,
  desktops: desktops.value,
  hasProblem: problem.value !== null,
}));

/** Returns the first thing that is missing on the way to a model. */
export function findMissing({isOnline, reachability, isOnDesktop, proxy, desktops, hasProblem}: Knowledge): Missing {
  if (reachability === 'unknown') return 'unknown';
  if (reachability !== 'ok') return isOnline || isOnDesktop ? 'server' : 'network';
  if (hasProblem && desktops === null) return 'server';
  if (desktops === null) return 'unknown';
  if (desktops.length === 0) return isOnDesktop || proxy?.state === 'running' ? 'desktop' : 'unknown';
  return findMissingOf(chooseBestDesktop(desktops.filter(({resources}) => resources !== false)));
}

function findMissingOf(desktop: Desktop | null): Missing {
  if (!desktop) return 'version';
  if (desktop.ollama === 'down') return 'ollama';
  if (desktop.ollama === 'demo') return 'demo';
  return desktop.models.length === 0 ? 'model' : 'nothing';
}

/** Whether it is said in place of a new chat; the rest is said above it. */
export function fillsTheScreen(missing: Missing): boolean {
  return missing !== 'nothing' && missing !== 'unknown' && missing !== 'demo';
}
