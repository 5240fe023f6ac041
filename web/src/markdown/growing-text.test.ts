import {expect, it} from 'vitest';
import {GrowingText} from './growing-text';

it('has the parts of what was appended', () => {
  const text = new GrowingText();
  for (const piece of ['Hel', '', 'lo ', 'w', 'orld']) text.append(piece);
  const whole = 'Hello world';
  expect(text.length).toBe(whole.length);
  for (let from = 0; from <= whole.length; from += 1) {
    for (let to = from; to <= whole.length + 1; to += 1) expect(text.slice(from, to)).toBe(whole.slice(from, to));
  }
  expect(new GrowingText().slice(0, 5)).toBe('');
});
