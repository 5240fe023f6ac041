/** What Ollama says of a model: POST /api/show. */
import {isObject, readJson} from '../api/http';
import {authorizedRequest, desktopHeader} from '../session/session';

export interface ModelDetails {
  readonly format: string;
  readonly family: string;
  readonly parameterSize: string;
  readonly quantization: string;
  readonly parent: string;
  /** Tokens; null if Ollama does not say. */
  readonly contextLength: number | null;
  readonly capabilities: readonly string[];
  readonly template: string;
  readonly system: string;
  /** One option a line. */
  readonly parameters: string;
  readonly license: string;
}

/** The most characters that are shown of a text of a model. */
const MAX_TEXT = 200_000;

export async function readModelDetails(desktop: string, model: string, signal: AbortSignal): Promise<ModelDetails> {
  const response = await authorizedRequest('POST', '/api/show', {body: {model}, headers: desktopHeader(desktop), signal});
  return parseDetails(await readJson(response));
}

/** Returns what is known; whoever made the model wrote it, so nothing of it is trusted to have a type. */
export function parseDetails(body: unknown): ModelDetails {
  const shown = isObject(body) ? body : {};
  const details = isObject(shown['details']) ? shown['details'] : {};
  const capabilities: readonly unknown[] = Array.isArray(shown['capabilities']) ? shown['capabilities'] : [];
  return {
    format: text(details['format']),
    family: text(details['family']),
    parameterSize: text(details['parameter_size']),
    quantization: text(details['quantization_level']),
    parent: text(details['parent_model']),
    contextLength: findContextLength(shown['model_info']),
    capabilities: capabilities.filter(each => typeof each === 'string'),
    template: text(shown['template']),
    system: text(shown['system']),
    parameters: text(shown['parameters']),
    license: text(shown['license']),
  };
}

/** Its name begins with the architecture of the model, such as `llama.context_length`. */
function findContextLength(info: unknown): number | null {
  if (!isObject(info)) return null;
  const [, length] = Object.entries(info).find(([name]) => name.endsWith('.context_length')) ?? [];
  return typeof length === 'number' && length > 0 ? length : null;
}

function text(value: unknown): string {
  return typeof value === 'string' ? value.slice(0, MAX_TEXT).trim() : '';
}
