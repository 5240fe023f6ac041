/** How far a pull is, from the lines that Ollama sends. */

interface Layer {
  readonly total: number;
  readonly completed: number;
}

interface Sample {
  /** Milliseconds. */
  readonly at: number;
  readonly completed: number;
}

export interface PullProgress {
  /** What Ollama does, in its own words, such as "pulling manifest". */
  readonly status: string;
  /** Layers by their digest. */
  readonly layers: ReadonlyMap<string, Layer>;
  /** What was completed at times within the last seconds, oldest first. */
  readonly samples: readonly Sample[];
}

export const NO_PROGRESS: PullProgress = {status: '', layers: new Map(), samples: []};

const WINDOW_MS = 10_000;
const MIN_SAMPLE_MS = 200;
const MAX_LAYERS = 1_000;

/** Returns the progress after a line that arrived at `now` (milliseconds). */
export function addLine(progress: PullProgress, line: Readonly<Record<string, unknown>>, now: number): PullProgress {
  const status = typeof line['status'] === 'string' ? line['status'] : progress.status;
  const {digest} = line;
  const total = readCount(line['total']);
  if (typeof digest !== 'string' || total === 0) return {...progress, status};
  if (!progress.layers.has(digest) && progress.layers.size >= MAX_LAYERS) return {...progress, status};
  const completed = Math.min(total, readCount(line['completed']));
  const layers = new Map(progress.layers).set(digest, {total, completed});
  return {status, layers, samples: addSample(progress.samples, {at: now, completed: sum(layers, 'completed')})};
}

/** Keeps few samples: a pull sends very many lines. */
function addSample(samples: readonly Sample[], sample: Sample): readonly Sample[] {
  const recent = samples.filter(({at}) => at >= sample.at - WINDOW_MS);
  const previous = recent.at(-2);
  const replaces = previous !== undefined && sample.at - previous.at < MIN_SAMPLE_MS;
  return [...(replaces ? recent.slice(0, -1) : recent), sample];
}

/** The bytes that are there, and the bytes of all layers known so far. */
export function measure({layers}: PullProgress): Layer {
  return {total: sum(layers, 'total'), completed: sum(layers, 'completed')};
}

/** Bytes a second over the last seconds; null until it is known. */
export function measureSpeed({samples}: PullProgress, now: number): number | null {
  const first = samples.find(({at}) => at >= now - WINDOW_MS);
  const last = samples.at(-1);
  if (!first || !last || last.at - first.at < MIN_SAMPLE_MS) return null;
  const seconds = Math.max(last.at, now - MIN_SAMPLE_MS * 5) - first.at;
  return Math.max(0, last.completed - first.completed) / (seconds / 1000);
}

/** Seconds until all layers are there; null until it is known. */
export function estimateSecondsLeft(progress: PullProgress, now: number): number | null {
  const speed = measureSpeed(progress, now);
  const {total, completed} = measure(progress);
  return speed ? (total - completed) / speed : null;
}

function sum(layers: ReadonlyMap<string, Layer>, part: keyof Layer): number {
  let result = 0;
  for (const layer of layers.values()) result += layer[part];
  return result;
}

function readCount(value: unknown): number {
  return typeof value === 'number' && Number.isFinite(value) && value > 0 ? value : 0;
}
