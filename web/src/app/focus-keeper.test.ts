import {afterEach, beforeEach, expect, it} from 'vitest';
import {until} from '../testing';
import {keepFocus} from './focus-keeper';

let stop: () => void;

const find = (selector: string): HTMLElement => document.querySelector<HTMLElement>(selector) ?? expect.fail(`There is no ${selector}.`);
const focused = (): string => document.activeElement?.id || (document.activeElement?.tagName ?? '');
/** Lets observers and the next frame do what they do. */
const settle = (): Promise<void> => new Promise(resolve => requestAnimationFrame(() => setTimeout(resolve)));

beforeEach(() => {
  document.body.innerHTML = `
    <main id="main" tabindex="-1"><section id="list"><ul><li id="row"><button id="remove"></button></li></ul></section></main>
    <p id="beside"><button id="other"></button></p>`;
  stop = keepFocus(find('main'));
});
afterEach(() => {
  stop();
  document.body.innerHTML = '';
});

it('moves the focus of what is removed to what was around it', async () => {
  find('#remove').focus();
  find('#row').remove();
  await until(() => expect(focused()).toBe('list'));
});

it('moves the focus to the view if nothing around it has a name', async () => {
  find('#other').focus();
  find('#other').remove();
  await until(() => expect(focused()).toBe('main'));
});

it('moves the focus of what is disabled', async () => {
  find('#remove').focus();
  find('#remove').setAttribute('disabled', '');
  await until(() => expect(focused()).toBe('list'));
});

it('leaves a focus where somebody has moved it', async () => {
  find('#remove').focus();
  find('#row').remove();
  find('#other').focus();
  await settle();
  expect(focused()).toBe('other');
});

it('gives no focus to whoever has clicked beside everything, or after its end', async () => {
  find('#remove').focus();
  find('#beside').dispatchEvent(new MouseEvent('pointerdown', {bubbles: true}));
  find('#row').remove();
  await settle();
  expect(focused()).toBe('BODY');
  stop();
  find('#other').focus();
  find('#other').remove();
  await settle();
  expect(focused()).toBe('BODY');
});
