import {expect, it} from 'vitest';
import {GrowingText} from '../markdown/growing-text';
import {PlainTextView} from './plain-text-view';

/** The text as it is seen: each element begins a line. */
const seen = (host: HTMLElement): string => [...host.children].map(each => each.textContent).join('\n');

it('is appended to: what is shown stays, in parts that end with a line', () => {
  const host = document.createElement('div');
  const view = new PlainTextView(host);
  const source = new GrowingText();
  const lines = Array.from({length: 120}, (_, index) => `${index} ${'word '.repeat(index % 17)}`).join('\n\n');
  let text = '';
  let first: ChildNode | null = null;
  for (let start = 0; start < lines.length; start += 37) {
    const piece = lines.slice(start, start + 37);
    text += piece;
    source.append(piece);
    view.show(text, source);
    expect(seen(host)).toBe(text);
    first ??= host.firstChild;
  }
  expect([host.firstChild, host.children.length > 3]).toEqual([first, true]);
  expect([...host.children].every(each => (each.textContent?.length ?? 0) < 1700)).toBe(true);
  view.show(`${text}\n`);
  expect([seen(host), host.firstChild]).toEqual([`${text}\n`, first]);
});

it('begins again with another text', () => {
  const host = document.createElement('div');
  const view = new PlainTextView(host);
  const source = new GrowingText();
  source.append('Hello');
  view.show('Hello', source);
  view.show('Hel', source);
  expect(seen(host)).toBe('Hel');
  view.show('');
  expect(host.textContent).toBe('');
});
