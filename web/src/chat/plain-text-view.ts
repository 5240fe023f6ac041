/** Shows plain text that grows: what is shown of it stays as it is. */
import type {GrowingText} from '../markdown/growing-text';

/** The text is divided after a line where it is so long: the layout of one part costs as much as all of it. */
const PART_LENGTH = 1500;

export class PlainTextView {
  readonly #host: HTMLElement;
  #text = '';
  #source: GrowingText | undefined;
  #last: Text | null = null;

  constructor(host: HTMLElement) {
    this.#host = host;
  }

  /** Shows `text`; `source` is what it is the beginning of, if it comes from something that is only appended to. */
  show(text: string, source?: GrowingText): void {
    const hasGrown = source !== undefined && source === this.#source && text.length >= this.#text.length;
    if (!hasGrown && !text.startsWith(this.#text)) this.#reset();
    this.#append((hasGrown ? source : text).slice(this.#text.length, text.length));
    this.#text = text;
    this.#source = source;
  }

  #reset(): void {
    this.#host.replaceChildren();
    this.#text = '';
    this.#last = null;
  }

  #append(text: string): void {
    for (let rest = text; rest;) {
      const last = this.#last ?? this.#addPart();
      const end = rest.indexOf('\n', Math.max(0, PART_LENGTH - last.length));
      // The end of a block is the end of its last line: the character would be another, empty one.
      last.appendData(end < 0 ? rest : rest.slice(0, end));
      if (end < 0) return;
      this.#last = null;
      rest = rest.slice(end + 1);
      if (!rest) this.#addPart();
    }
  }

  #addPart(): Text {
    const part = document.createElement('div');
    const node = document.createTextNode('');
    part.append(node);
    this.#host.append(part);
    this.#last = node;
    return node;
  }
}
