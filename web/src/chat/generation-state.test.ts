import {describe, expect, it} from 'vitest';
import {classifyRefusal, isEnd, nextPhase, retryDelay, type Event, type Phase} from './generation-state';

function after(phase: Phase, ...events: readonly Event[]): Phase {
  return events.reduce(nextPhase, phase);
}

describe('the phases of a generation', () => {
  it.each<[string, Phase, readonly Event[], Phase]>([
    ['is read to its end', 'starting', ['opened', 'done'], 'complete'],
    ['is started again if the start broke', 'starting', ['broke', 'due', 'opened'], 'reading'],
    ['is resumed, not started again, once it was opened', 'starting', ['opened', 'broke', 'due'], 'resuming'],
    ['goes on after a fault of the connection', 'reading', ['faulted', 'running', 'due', 'opened', 'done'], 'complete'],
    ['fails with the error of the model', 'reading', ['errored'], 'failed'],
    ['fails after a fault of its own', 'reading', ['faulted', 'errored'], 'failed'],
    ['is gone if the desktop does not have it', 'resuming', ['faulted', 'missing'], 'gone'],
    ['is started if the start never arrived', 'resuming', ['faulted', 'unstarted', 'opened'], 'reading'],
    ['is looked for if its start has no response', 'starting', ['expired', 'running', 'due', 'opened'], 'reading'],
    ['is looked for if its rest has no response', 'resuming', ['expired', 'missing'], 'gone'],
    ['is stopped by somebody else', 'reading', ['cancelled'], 'stopped'],
  ])('%s', (_, start, events, expected) => expect(after(start, ...events)).toBe(expected));

  it.each<Phase>(['starting', 'postponed', 'reading', 'waiting', 'resuming', 'checking'])('can be stopped while %s', phase => {
    expect(nextPhase(phase, 'stop')).toBe('stopped');
  });

  it.each<Phase>(['complete', 'failed', 'stopped', 'gone'])('do not change after %s', phase => {
    expect(isEnd(phase)).toBe(true);
    for (const event of ['opened', 'done', 'broke', 'due', 'stop', 'missing'] as const) expect(nextPhase(phase, event)).toBe(phase);
  });
});

describe('a refusal', () => {
  it.each<['start' | 'resume', number, string, Event]>([
    ['start', 0, '', 'broke'],
    ['start', 503, 'desktop_offline', 'broke'],
    ['start', 503, 'ollama_down', 'errored'],
    ['start', 500, '', 'errored'],
    ['start', 502, '', 'broke'],
    ['start', 404, 'not_found', 'broke'],
    ['start', 404, '', 'errored'],
    ['start', 401, 'unauthenticated', 'broke'],
    ['resume', 401, '', 'broke'],
    ['resume', 403, 'user_disabled', 'errored'],
    ['resume', 404, 'not_found', 'faulted'],
    ['resume', 410, 'gone', 'missing'],
    ['resume', 416, 'range_not_satisfiable', 'missing'],
    ['resume', 503, 'proxy_unavailable', 'broke'],
    ['resume', 502, 'upstream_failed', 'faulted'],
    ['resume', 499, 'cancelled', 'cancelled'],
    ['resume', 500, '', 'errored'],
  ])('to %s with %i %s is "%s"', (purpose, status, code, expected) => expect(classifyRefusal(purpose, status, code)).toBe(expected));
});

describe('the delay before trying again', () => {
  it('grows to a limit', () => {
    expect([0, 1, 2, 10, 1000].map(failures => retryDelay(failures, false, 0.5))).toEqual([250, 500, 1000, 5000, 5000]);
  });
  it('is different in each page', () => expect(retryDelay(2, false, 0)).toBeLessThan(retryDelay(2, false, 1)));
  it('is long in a page that nobody sees', () => expect(retryDelay(0, true, 0)).toBe(20_000));
});
