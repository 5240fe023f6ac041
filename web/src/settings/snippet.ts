/** What a program needs to use this server: ctllm/client_snippets.py has the table, and docs/clients.md the same. */
import table from './snippets.json';

export interface Step {
  readonly text: string;
  /** The file or form that the lines are for; '' for the shell. */
  readonly file: string;
}

export interface Client {
  readonly name: string;
  readonly title: string;
  readonly needsKey: boolean;
  readonly endpointSteps: readonly Step[];
  readonly cloudSteps: readonly Step[];
  /** Why it cannot use a cloud; ''. */
  readonly cloudUnsupported: string;
  readonly note: string;
  readonly verified: string;
}

export interface Target {
  readonly url: string;
  /** '' if there is none. */
  readonly key: string;
  /** '' if there is none. */
  readonly model: string;
}

export const CLIENTS: readonly Client[] = table;

export const PLACEHOLDER_KEY = 'YOUR-KEY';
export const PLACEHOLDER_MODEL = 'MODEL';
/** For programs that insist on a key where none is needed. */
const DUMMY_KEY = 'none';

/** Values that need no quoting in shell, JSON and YAML: others could run as a command when they are pasted. */
const SAFE_URL = /^https?:\/\/[A-Za-z0-9._~:%[\]/-]+$/;
const SAFE_MODEL = /^[A-Za-z0-9][A-Za-z0-9._:/@-]*$/;
const SAFE_KEY = /^[A-Za-z0-9._-]+$/;

/** Returns the steps for a client of a desktop on this machine, or of a cloud. */
export function listSteps(client: Client, isOnDesktop: boolean, target: Target): readonly Step[] {
  const steps = isOnDesktop ? client.endpointSteps : client.cloudSteps;
  const key = isOnDesktop ? DUMMY_KEY : SAFE_KEY.test(target.key) ? target.key : PLACEHOLDER_KEY;
  const model = SAFE_MODEL.test(target.model) ? target.model : PLACEHOLDER_MODEL;
  if (!SAFE_URL.test(target.url)) return [];
  const values: Readonly<Record<string, string>> = {'<URL>': target.url.replace(/\/+$/, ''), '<KEY>': key, '<MODEL>': model};
  return steps.map(({text, file}) => ({file, text: text.replace(/<(?:URL|KEY|MODEL)>/g, found => values[found] ?? found)}));
}
