/** Shows Markdown that grows, in an element. */
import {afterFrame} from '../ui/tasks';
import {ChildrenView} from './block-view';
import {BlockParser} from './block-parser';
import {plainFormatter, type Formatter} from './formatter';
import type {GrowingText} from './growing-text';
import {References} from './references';

export interface ShowOptions {
  /** Whether the text has an end that may still change. */
  readonly isStreaming?: boolean;
  /** What the text is the beginning of, if it comes from something that is only appended to. */
  readonly source?: GrowingText | undefined;
}

export interface RendererOptions {
  readonly formatter?: Formatter;
  /** Is called after the element has changed. */
  readonly onRender?: (() => void) | undefined;
  /** How long it works without a pause. */
  readonly sliceMs?: number;
  /** Calls `work` later; returns what cancels that. */
  readonly schedule?: (work: () => void) => () => void;
}

/** Characters that are parsed between two looks at the clock. While a text streams, a frame shows no more: its layout takes
 * longer than its parsing. */
const STEP = 1500;
const SLICE_MS = 6;

/** Keeps the content of an element equal to a Markdown text, and renders only what is new of it.
 *
 * Long texts are rendered in slices, between which the page can respond.
 */
export class MarkdownRenderer {
  readonly #host: HTMLElement;
  readonly #formatter: Formatter;
  readonly #onRender: () => void;
  readonly #sliceMs: number;
  readonly #schedule: (work: () => void) => () => void;
  #parser = new BlockParser();
  #view: ChildrenView | null = null;
  #text = '';
  #source: GrowingText | undefined;
  #isStreaming = false;
  #isFinished = false;
  /** Takes back what the unfinished last line added. */
  #endPreview: (() => void) | null = null;
  #cancel: (() => void) | null = null;

  constructor(host: HTMLElement, options: RendererOptions = {}) {
    this.#host = host;
    this.#formatter = options.formatter ?? plainFormatter;
    this.#onRender = options.onRender ?? (() => {});
    this.#sliceMs = options.sliceMs ?? SLICE_MS;
    this.#schedule = options.schedule ?? afterFrame;
  }

  /** Shows `text`. What it has in common with the text before stays as it is.
   *
   * The first slice of a text that is complete is shown at once, everything else with the next frames.
   */
  show(text: string, {isStreaming = false, source}: ShowOptions = {}): void {
    const hasGrown = source !== undefined && source === this.#source && text.length >= this.#text.length;
    const isNew = !this.#view || !(hasGrown || text.startsWith(this.#text)) || (this.#isFinished && text !== this.#text);
    if (isNew) this.#reset();
    else if (text === this.#text && (isStreaming === this.#isStreaming || this.#isFinished)) return;
    this.#endPreview?.();
    this.#endPreview = null;
    this.#parser.append((hasGrown ? source : text).slice(this.#text.length, text.length));
    this.#text = text;
    this.#source = source;
    this.#isStreaming = isStreaming;
    if (isNew && !isStreaming) this.#work();
    else this.#cancel ??= this.#schedule(this.#work);
  }

  /** Stops all work; the element keeps its content. */
  dispose(): void {
    this.#cancel?.();
    this.#cancel = null;
    this.#view?.dispose();
  }

  #reset(): void {
    this.dispose();
    this.#host.replaceChildren();
    this.#parser = new BlockParser();
    this.#view = new ChildrenView(this.#host, {references: new References(), formatter: this.#formatter}, true);
    this.#text = '';
    this.#isFinished = false;
    this.#endPreview = null;
  }

  readonly #work = (): void => {
    this.#cancel = null;
    const deadline = performance.now() + this.#sliceMs;
    while (this.#parser.advance(STEP)) {
      this.#view?.update(this.#parser.document, false);
      if (this.#isStreaming || performance.now() >= deadline) {
        this.#cancel = this.#schedule(this.#work);
        return this.#onRender();
      }
    }
    this.#showEnd();
    this.#onRender();
  };

  /** Shows the last line, which has no end. */
  #showEnd(): void {
    if (this.#isStreaming) this.#endPreview = this.#parser.preview();
    else {
      this.#parser.finish();
      this.#isFinished = true;
    }
    this.#view?.update(this.#parser.document, true);
  }
}
