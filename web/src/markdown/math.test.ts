import {expect, it} from 'vitest';
import {buildMath} from './math';

it('shows the application of a function as nothing, and other hidden characters as what they are', () => {
  const operator = (text: string): string | null => buildMath({tag: 'mo', attributes: {}, children: [text]}).textContent;
  expect(operator('\u2061')).toBe('\u2061');
  expect(operator('\u202e')).toBe('\u27e8U+202E\u27e9');
  expect(operator('\u2061\u2061')).toBe('\u27e8U+2061 \u00d7 2\u27e9');
});
