/** A block of code: its language, a button that copies it, and the code, which grows at its end. */
import {t} from '../i18n/i18n';
import {copyText} from '../ui/clipboard';
import type {Block} from './block';
import {button, element} from './dom';
import type {ColouredRun, Formatter} from './formatter';
import {visibleText} from './visible-text';

/** The code is divided at so many lines or characters, as the layout of one part costs as much as all of it. */
const PART_LINES = 48;
const PART_LENGTH = 3000;
const MAX_PART_LENGTH = 4096;
/** Longer code has no colours. */
const MAX_COLOURED = 50_000;
const COPIED_MS = 2000;
/** How long colours are applied without a pause. */
const SLICE_MS = 4;

interface Part {
  readonly start: number;
  readonly host: HTMLElement;
  text: string;
}

export class CodeView {
  readonly node = element('figure', 'code');
  readonly #code = element('code');
  readonly #parts: Part[] = [];
  readonly #formatter: Formatter;
  #block: Block;
  #isDisposed = false;
  #isColoured = false;

  constructor(block: Block, formatter: Formatter) {
    this.#block = block;
    this.#formatter = formatter;
    const pre = element('pre', '', this.#code);
    pre.tabIndex = 0;
    pre.dir = 'ltr';
    pre.setAttribute('aria-label', t('markdown.code'));
    pre.setAttribute('role', 'group');
    this.node.append(this.#makeCaption(), pre);
  }

  get #language(): string {
    const {details} = this.#block;
    return details.kind === 'code' ? details.language : '';
  }

  adopts({details}: Block): boolean {
    return details.kind === 'code' && details.language === this.#language;
  }

  update(block: Block, isEnd: boolean): void {
    this.#block = block;
    if (block.isFinal || isEnd) this.#showText(block.text.slice(1));
    if (block.isFinal && !this.#isColoured) this.#colourWhenVisible();
  }

  dispose(): void {
    this.#isDisposed = true;
    visibility?.unobserve(this.node);
    whenVisible.delete(this.node);
  }

  #makeCaption(): HTMLElement {
    const state = element('span', 'visually-hidden');
    state.setAttribute('role', 'status');
    const copy = button('plain copy', t('markdown.copy'), () => {
      void copyText(this.#block.text.slice(1)).then(isCopied => {
        const message = t(isCopied ? 'markdown.copied' : 'markdown.notCopied');
        copy.textContent = message;
        state.textContent = message;
        setTimeout(() => { copy.textContent = t('markdown.copy'); state.textContent = ''; }, COPIED_MS);
      });
    });
    return element('figcaption', '', element('span', 'language', visibleText(this.#language)), copy, state);
  }

  /** Shows the code. Parts before the last one do not change when it grows. */
  #showText(text: string): void {
    while (this.#parts.length > 1 && (this.#parts[this.#parts.length - 1]?.start ?? 0) >= text.length) this.#parts.pop()?.host.remove();
    const last = this.#parts[this.#parts.length - 1];
    let start = last?.start ?? 0;
    let part: Part | undefined = last;
    do {
      const end = findPartEnd(text, start);
      part ??= this.#addPart(start);
      setText(part, text.slice(start, end));
      part = undefined;
      start = end;
    } while (start < text.length);
  }

  #addPart(start: number): Part {
    const part: Part = {start, host: element('span', 'lines'), text: ''};
    this.#parts.push(part);
    this.#code.append(part.host);
    return part;
  }

  #colourWhenVisible(): void {
    this.#isColoured = true;
    if (!this.#language || this.#block.text.length > MAX_COLOURED) return;
    if (!visibility) return void this.#colour();
    whenVisible.set(this.node, () => void this.#colour());
    visibility.observe(this.node);
  }

  async #colour(): Promise<void> {
    const runs = await this.#formatter.highlight(this.#block.text.slice(1), this.#language);
    if (!runs) return;
    const reader = new RunReader(runs);
    let begun = performance.now();
    for (const part of this.#parts) {
      if (this.#isDisposed) return;
      part.host.replaceChildren(colourPart(part.text, reader));
      if (performance.now() - begun < SLICE_MS) continue;
      await new Promise(resume => { setTimeout(resume, 0); });
      begun = performance.now();
    }
  }
}

/** Returns where the part that begins at `start` ends, which depends only on the text before. */
function findPartEnd(text: string, start: number): number {
  let lines = 0;
  for (let end = text.indexOf('\n', start); end >= 0; end = text.indexOf('\n', end + 1)) {
    if (end - start > MAX_PART_LENGTH) break;
    lines += 1;
    if (lines >= PART_LINES || end - start >= PART_LENGTH) return end + 1;
  }
  return Math.min(start + MAX_PART_LENGTH, text.length);
}

function setText(part: Part, text: string): void {
  if (text === part.text && part.host.firstChild) return;
  part.text = text;
  const shown = visibleText(text);
  const {firstChild} = part.host;
  if (firstChild instanceof Text && shown.startsWith(firstChild.data)) firstChild.appendData(shown.slice(firstChild.data.length));
  else part.host.replaceChildren(shown);
}

/** Gives the colours of the characters in order. */
class RunReader {
  readonly #runs: readonly ColouredRun[];
  #index = 0;
  #used = 0;

  constructor(runs: readonly ColouredRun[]) {
    this.#runs = runs;
  }

  /** Returns the next run, of at most so many characters. */
  take(most: number): ColouredRun {
    const [length, scope] = this.#runs[this.#index] ?? [Infinity, ''];
    const taken = Math.min(length - this.#used, most);
    this.#used += taken;
    if (this.#used >= length) {
      this.#index += 1;
      this.#used = 0;
    }
    return [taken, scope];
  }
}

function colourPart(text: string, reader: RunReader): DocumentFragment {
  const fragment = document.createDocumentFragment();
  for (let position = 0; position < text.length;) {
    const [length, scope] = reader.take(text.length - position);
    const shown = visibleText(text.slice(position, position + length));
    fragment.append(scope ? element('span', `code-${scope}`, shown) : shown);
    position += Math.max(length, 1);
  }
  return fragment;
}

const whenVisible = new WeakMap<Element, () => void>();

/** Calls what waits for an element to come near the visible part of the page. */
const visibility = typeof IntersectionObserver === 'undefined' ? null : new IntersectionObserver(entries => {
  for (const {isIntersecting, target} of entries) {
    if (!isIntersecting) continue;
    visibility?.unobserve(target);
    whenVisible.get(target)?.();
    whenVisible.delete(target);
  }
}, {rootMargin: '600px'});
