/** Help for tests of components: shows them in a document, finds what a person would find, and acts as they do. */
import {render, type ComponentChild} from 'preact';
import {act} from 'preact/test-utils';
import {vi} from 'vitest';

export {until} from '../testing';

/** What jsdom has not: it computes no layout. */
function addWhatIsMissing(): void {
  const nothing = (): void => {};
  class Observer {
    observe = nothing;
    unobserve = nothing;
    disconnect = nothing;
  }
  Object.assign(globalThis, {ResizeObserver: Observer, IntersectionObserver: Observer});
  globalThis.matchMedia = (media: string) => Object.assign(new EventTarget(), {matches: false, media, onchange: null, addListener: nothing, removeListener: nothing});
  HTMLElement.prototype.showPopover = nothing;
  HTMLDialogElement.prototype.showModal = function showModal() { this.open = true; };
  HTMLDialogElement.prototype.close = function close() { this.open = false; };
}
addWhatIsMissing();

/** Shows something in place of what was shown before; null for nothing. */
export async function show(shown: ComponentChild): Promise<void> {
  await act(() => render(shown, document.body));
}

/** Waits until what has been started is done: effects, and requests that `answerRequests` answers. */
export async function settle(): Promise<void> {
  await act(() => new Promise(resolve => setTimeout(resolve)));
}

/** Returns the only element of a selector. */
export function find<Found extends HTMLElement = HTMLElement>(selector: string): Found {
  const [found, ...others] = document.querySelectorAll<Found>(selector);
  if (!found || others.length > 0) throw new Error(`${others.length + (found ? 1 : 0)} elements are ${selector} in ${document.body.textContent}`);
  return found;
}

export const texts = (selector: string): readonly (string | null)[] => [...document.querySelectorAll(selector)].map(each => each.textContent);

/** Returns the button or menu item with that label. */
export function button(name: string): HTMLButtonElement {
  const all = [...document.querySelectorAll<HTMLButtonElement>('button')].filter(each => (each.ariaLabel ?? each.textContent) === name);
  if (all.length !== 1 || !all[0]) throw new Error(`${all.length} buttons are "${name}" in ${document.body.textContent}`);
  return all[0];
}

export const hasButton = (name: string): boolean => [...document.querySelectorAll('button')].some(each => (each.ariaLabel ?? each.textContent) === name);

export async function click(element: Element, options: MouseEventInit = {}): Promise<MouseEvent> {
  const event = new MouseEvent('click', {bubbles: true, cancelable: true, ...options});
  await act(() => void element.dispatchEvent(event));
  await settle();
  return event;
}

export async function press(element: Element, key: string, options: KeyboardEventInit = {}): Promise<void> {
  await act(() => void element.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true, cancelable: true, ...options})));
  await settle();
}

/** Writes or chooses a value, and leaves the field. */
export async function enter(field: HTMLInputElement | HTMLSelectElement, value: string): Promise<void> {
  await act(() => {
    field.value = value;
    for (const type of ['input', 'change']) field.dispatchEvent(new Event(type, {bubbles: true}));
  });
  await settle();
}

/** The answer of a server that takes its time. */
export const NEVER = Symbol('never');

/** Answers requests by method and path, and with 404 otherwise. Returns what was asked, with its body. */
export function answerRequests(answers: Readonly<Record<string, unknown>>): string[] {
  const asked: string[] = [];
  vi.stubGlobal('fetch', async (path: string, {method, body, signal}: RequestInit) => {
    const request = `${method} ${path}`;
    asked.push(typeof body === 'string' ? `${request} ${body}` : request);
    const answer = answers[request];
    if (answer === NEVER) return new Promise((_, reject) => signal?.addEventListener('abort', () => reject(new DOMException('Aborted.', 'AbortError'))));
    if (answer instanceof Response) return answer.clone();
    return answer === undefined ? new Response('{"error": {"message": "There is none."}}', {status: 404}) : new Response(JSON.stringify(answer));
  });
  return asked;
}
