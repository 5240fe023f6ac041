/** Helps the tests of this folder. */
import {MarkdownRenderer, type RendererOptions} from './renderer';

/** A renderer whose slices are rendered at once. */
export class PromptRenderer {
  readonly host = document.createElement('div');
  readonly #due: (() => void)[] = [];
  readonly #renderer: MarkdownRenderer;

  constructor(options: RendererOptions = {}) {
    const schedule = (work: () => void): (() => void) => {
      this.#due.push(work);
      return () => { this.#due.length = 0; };
    };
    this.#renderer = new MarkdownRenderer(this.host, {sliceMs: Infinity, schedule, ...options});
  }

  show(text: string, isStreaming = false): void {
    this.#renderer.show(text, {isStreaming});
    for (let work = this.#due.shift(); work; work = this.#due.shift()) work();
  }
}

/** Returns an element that shows a whole text. */
export function render(text: string, options: RendererOptions = {}): HTMLElement {
  const renderer = new PromptRenderer(options);
  renderer.show(text);
  return renderer.host;
}

/** Returns an element that showed a text as it grew: up to each of these lengths. */
export function stream(text: string, lengths: Iterable<number>, options: RendererOptions = {}): HTMLElement {
  const renderer = new PromptRenderer(options);
  for (const length of lengths) renderer.show(text.slice(0, length), true);
  renderer.show(text);
  return renderer.host;
}

/** Returns the HTML of a rendered text, without the attributes and elements that every block has. */
export function html(text: string): string {
  const host = render(text);
  for (const node of host.querySelectorAll('figcaption')) node.remove();
  for (const node of host.querySelectorAll('.section')) node.replaceWith(...node.childNodes);
  for (const name of ['dir', 'tabindex', 'role', 'aria-label', 'target', 'rel', 'referrerpolicy', 'title']) {
    for (const node of host.querySelectorAll(`[${name}]`)) node.removeAttribute(name);
  }
  return host.innerHTML.replaceAll('<!---->', '').replaceAll(' class=""', '');
}
