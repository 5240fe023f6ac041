/** How far the reading of a generation is, as a table of states and events. Pure: `generation-client.ts` acts on it. */

/** What is being done: */
export type Phase =
  | 'starting' // the request that starts the generation is sent
  | 'postponed' // it could not be sent, and is sent again in a moment
  | 'reading' // the response arrives
  | 'waiting' // the response broke off, and is asked for again in a moment
  | 'resuming' // the rest of the response is asked for
  | 'checking' // the response ended with an error: the desktop is asked how the generation is
  | End;

/** How it ended: with Ollama's last line; with an error; by the person; with a desktop that does not have it any more. */
export type End = 'complete' | 'failed' | 'stopped' | 'gone';

/** What happened: */
export type Event =
  | 'opened' // a response begins
  | 'done' // Ollama's last line arrived
  | 'errored' // an error of Ollama's, or a refusal: final
  | 'broke' // the connection broke
  | 'faulted' // an error of ctllm's: the connection's, or the generation's
  | 'expired' // a request had no response for too long: the model may be loading, or the connection dead
  | 'missing' // the desktop does not have the generation
  | 'unstarted' // it does not have it, because the start never arrived
  | 'due' // the time to wait is over
  | 'running' // the desktop says that there is more to read
  | 'cancelled' // the desktop says that somebody stopped it
  | 'stop'; // the person stops it here

const TABLE: Readonly<Record<Phase, Readonly<Partial<Record<Event, Phase>>>>> = {
  starting: {opened: 'reading', broke: 'postponed', expired: 'checking', faulted: 'postponed', errored: 'failed', missing: 'failed', stop: 'stopped'},
  postponed: {due: 'starting', stop: 'stopped'},
  reading: {done: 'complete', errored: 'failed', broke: 'waiting', faulted: 'checking', cancelled: 'stopped', stop: 'stopped'},
  waiting: {due: 'resuming', stop: 'stopped'},
  resuming: {opened: 'reading', broke: 'waiting', expired: 'checking', faulted: 'checking', errored: 'failed', missing: 'gone', cancelled: 'stopped', stop: 'stopped'},
  checking: {running: 'waiting', broke: 'waiting', errored: 'failed', missing: 'gone', unstarted: 'starting', cancelled: 'stopped', stop: 'stopped'},
  complete: {},
  failed: {},
  stopped: {},
  gone: {},
};

/** Returns the phase after an event; an event that cannot be in a phase leaves it as it is. */
export function nextPhase(phase: Phase, event: Event): Phase {
  return TABLE[phase][event] ?? phase;
}

export function isEnd(phase: Phase): phase is End {
  return Object.keys(TABLE[phase]).length === 0;
}

/** Whether something has gone wrong that may pass. */
export function isInterruption(phase: Phase): boolean {
  return phase === 'waiting' || phase === 'postponed' || phase === 'checking';
}

const FIRST_DELAY_MS = 250;
const MAX_DELAY_MS = 5_000;
/** A page that nobody sees is in no hurry; the desktop waits for it longer than this. */
const HIDDEN_DELAY_MS = 20_000;

/** Returns how long to wait before the attempt after `failures` failures without progress; `random` is 0 to 1. */
export function retryDelay(failures: number, isHidden: boolean, random: number): number {
  if (isHidden) return HIDDEN_DELAY_MS;
  return Math.min(MAX_DELAY_MS, FIRST_DELAY_MS * 2 ** Math.min(failures, 10)) * (0.75 + random / 2);
}

/** Codes of ctllm's errors with which trying again is of use. */
const PASSING = new Set(['desktop_offline', 'desktop_lost', 'proxy_unavailable', 'overloaded', 'too_many_requests', 'rate_limit_exceeded', 'too_slow', 'not_running']);

/** Returns what a refused request means. `code` is '' for errors of Ollama. */
export function classifyRefusal(purpose: 'start' | 'resume', status: number, code: string): Event {
  if (status === 0) return 'broke';
  if (status === 401 || PASSING.has(code)) return 'broke'; // the session may be renewed; without one, the reading is abandoned
  if (purpose === 'resume') {
    // A desktop that is not connected is unknown, too: its list of generations tells.
    if (status === 404) return 'faulted';
    if (status === 410 || status === 416) return 'missing';
    if (code === 'cancelled') return 'cancelled';
    if (code && status >= 500) return 'faulted';
    return 'errored';
  }
  if (code === 'not_found') return 'broke'; // the desktop is not connected; Ollama's own errors have no code
  return !code && [502, 503, 504].includes(status) ? 'broke' : 'errored'; // of a web server before the cloud
}
