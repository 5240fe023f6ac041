import {expect, it} from 'vitest';
import {formatTitle} from './format-title';

it.each([
  ['ctllm', '', false],
  ['Models · ctllm', 'Models', false],
  ['● A question · ctllm', 'A question', true],
] as const)('the title of the document is %s', (formatted, title, isBusy) => expect(formatTitle(title, isBusy)).toBe(formatted));
