import {describe, expect, it} from 'vitest';
import {addLine, estimateSecondsLeft, measure, measureSpeed, NO_PROGRESS, type PullProgress} from './pull-progress';

const layer = (digest: string, completed: number, total = 1000): Readonly<Record<string, unknown>> => ({status: `pulling ${digest}`, digest, total, completed});

function after(...lines: readonly (readonly [number, Readonly<Record<string, unknown>>])[]): PullProgress {
  return lines.reduce((progress, [at, line]) => addLine(progress, line, at), NO_PROGRESS);
}

describe('the progress of a pull', () => {
  it('has the words of Ollama', () => expect(after([0, {status: 'pulling manifest'}]).status).toBe('pulling manifest'));

  it('adds the layers', () => {
    expect(measure(after([0, layer('a', 1000)], [1, layer('b', 250, 3000)]))).toEqual({total: 4000, completed: 1250});
  });

  it('has a speed and a time that is left after a moment', () => {
    const progress = after([0, layer('a', 0, 10_000)], [1000, layer('a', 1000, 10_000)], [2000, layer('a', 2000, 10_000)]);
    expect(measureSpeed(progress, 2000)).toBe(1000);
    expect(estimateSecondsLeft(progress, 2000)).toBe(8);
    expect(measureSpeed(after([0, layer('a', 10)]), 0)).toBeNull();
  });

  it('counts only what was done in the last seconds', () => {
    const progress = after([0, layer('a', 0, 1e6)], [1000, layer('a', 500_000, 1e6)], [20_000, layer('a', 500_000, 1e6)], [21_000, layer('a', 500_100, 1e6)]);
    expect(measureSpeed(progress, 21_000)).toBe(100);
  });

  it('becomes slower while nothing arrives', () => {
    const progress = after([0, layer('a', 0, 1e6)], [1000, layer('a', 1000, 1e6)]);
    expect(measureSpeed(progress, 5000)).toBeLessThan(300);
    expect(measureSpeed(progress, 60_000)).toBeNull();
  });

  it('keeps few samples of many lines', () => {
    let progress = NO_PROGRESS;
    for (let at = 0; at < 20_000; at += 1) progress = addLine(progress, layer('a', at, 1e6), at);
    expect(progress.samples.length).toBeLessThan(120);
    expect(measureSpeed(progress, 20_000)).toBeCloseTo(1000, -2);
  });

  it('believes no numbers that cannot be', () => {
    const lines = [{...layer('a', 5000)}, layer('b', -3), layer('c', Number.NaN), {digest: 7, total: 5}, layer('d', 1, -5), layer('e', 1, Infinity)];
    expect(measure(after(...lines.map((line, at) => [at, line] as const)))).toEqual({total: 3000, completed: 1000});
  });

  it('keeps a bounded number of layers', () => {
    let progress = NO_PROGRESS;
    for (let index = 0; index < 5000; index += 1) progress = addLine(progress, layer(`${index}`, 1, 2), index);
    expect(progress.layers.size).toBe(1000);
  });
});
