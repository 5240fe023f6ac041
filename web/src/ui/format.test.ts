import {afterEach, describe, expect, it, vi} from 'vitest';
import {setLanguage} from '../i18n/i18n';
import {formatBytes, formatDuration, formatLatency, formatRelativeTime} from './format';

afterEach(() => setLanguage('en'));

describe('a size', () => {
  it.each([
    [0, '0 byte'], [999, '999 byte'], [1000, '1 kB'], [4_661_224_676, '4.7 GB'], [123_456_789, '123 MB'],
    [999_600, '1 MB'], [2e15, '2,000 TB'],
  ])('%d is written as %s', (bytes, text) => expect(formatBytes(bytes)).toBe(text));

  it('has the signs of the language', async () => {
    await setLanguage('de');
    expect(formatBytes(4_661_224_676)).toBe('4,7\u00a0GB');
  });
});

describe('a duration', () => {
  it.each([
    [0, '0 sec'], [59.6, '1 min'], [125, '2 min 5 sec'], [3600, '1 hr'], [3605, '1 hr'], [90_000, '1 day 1 hr'],
  ])('of %d seconds is written as %s', (seconds, text) => expect(formatDuration(seconds)).toBe(text));
});

describe('a latency', () => {
  it.each([[0.42, '0.4 ms'], [12.4, '12 ms'], [1234, '1.2 sec']])('of %d ms is written as %s', (ms, text) => expect(formatLatency(ms)).toBe(text));
});

describe('a relative time', () => {
  const now = Date.UTC(2026, 10, 29);
  it.each([
    [0, 'now'], [-30, '30 seconds ago'], [-90, '1 minute ago'], [-86_400, 'yesterday'], [7200, 'in 2 hours'],
  ])('%d seconds from now is %s', (seconds, text) => expect(formatRelativeTime(now + seconds * 1000, now)).toBe(text));
});

it('makes the formats of the end of an answer before that', async () => {
  vi.resetModules(); // other tests have made formats
  const fresh = await import('./format');
  fresh.prepareFormats();
  const made = vi.spyOn(Intl, 'NumberFormat');
  expect([fresh.formatNumber(31.4, 1), fresh.formatDuration(75), fresh.formatDuration(20)]).toEqual(['31.4', '1 min 15 sec', '20 sec']);
  expect(made).not.toHaveBeenCalled();
  made.mockRestore();
});
