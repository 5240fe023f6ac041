import {describe, expect, it} from 'vitest';
import {nextDelaySeconds} from './poll-delay';

describe('the delay to the next poll', () => {
  it('is short while all is well', () => expect(nextDelaySeconds(0, 0)).toBe(4));
  it('doubles with each failure, up to a limit', () => {
    expect([1, 2, 3, 4, 50].map(failures => nextDelaySeconds(failures, 0))).toEqual([4, 8, 16, 32, 32]);
  });
  it('is at least what the server asks for', () => expect(nextDelaySeconds(1, 60)).toBe(60));
});
