import {expect, test} from 'vitest';
import {drawRow} from './qr-code';

test('each run of dark modules is one rectangle', () => {
  expect(drawRow('0011010', 3)).toBe('M2 3h2v1h-2zM5 3h1v1h-1z');
  expect(drawRow('000', 0)).toBe('');
});
