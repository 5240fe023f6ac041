/** A line of Markdown, from which its indentation and markers are taken one by one. */

const TAB = 4;

export class Line {
  readonly #text: string;
  #position = 0;
  /** The column at `#position`, counted with tabs of four columns. */
  #column = 0;
  /** Columns of a tab that was taken in part. */
  #spare = 0;
  #indent = -1;
  #start = 0;

  constructor(text: string) {
    this.#text = text;
  }

  /** The columns of whitespace that come next. */
  get indent(): number {
    if (this.#indent < 0) this.#measure();
    return this.#indent;
  }

  /** The text after the whitespace that comes next. */
  get content(): string {
    if (this.#indent < 0) this.#measure();
    return this.#text.slice(this.#start);
  }

  get isBlank(): boolean {
    if (this.#indent < 0) this.#measure();
    return this.#start >= this.#text.length;
  }

  /** The whole text that comes next, with the rest of a tab as spaces. */
  get rest(): string {
    return ' '.repeat(this.#spare) + this.#text.slice(this.#position);
  }

  /** Takes at most so many columns of whitespace. */
  skipIndent(columns: number): void {
    const taken = Math.min(columns, this.indent);
    for (let left = taken; left > 0; left -= 1) {
      if (this.#spare > 0) this.#spare -= 1;
      else this.#takeSpace();
    }
    this.#indent -= taken;
  }

  /** Takes the whitespace that comes next, and so many characters after it. */
  skip(characters: number): void {
    this.#column += this.indent - this.#spare + characters;
    this.#position = this.#start + characters;
    this.#spare = 0;
    this.#indent = -1;
  }

  #takeSpace(): void {
    const width = this.#text[this.#position] === '\t' ? TAB - (this.#column % TAB) : 1;
    this.#spare = width - 1;
    this.#column += width;
    this.#position += 1;
  }

  #measure(): void {
    let column = this.#column;
    let position = this.#position;
    for (; position < this.#text.length; position += 1) {
      const character = this.#text[position];
      if (character === ' ') column += 1;
      else if (character === '\t') column += TAB - (column % TAB);
      else break;
    }
    this.#indent = this.#spare + column - this.#column;
    this.#start = position;
  }
}
