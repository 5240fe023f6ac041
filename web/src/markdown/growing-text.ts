/** A text that is appended to. Reading what is new of it costs that alone.
 *
 * A string that is appended to is copied as a whole each time something of it is read: of a long answer, with each frame.
 */
export class GrowingText {
  readonly #pieces: string[] = [];
  #length = 0;

  /** In UTF-16 units. */
  get length(): number {
    return this.#length;
  }

  append(text: string): void {
    if (!text) return;
    this.#pieces.push(text);
    this.#length += text.length;
  }

  /** Returns the text between two offsets, at the cost of what comes after the first one. */
  slice(from: number, to: number): string {
    let index = this.#pieces.length;
    let start = this.#length;
    while (index > 0 && start > from) {
      index -= 1;
      start -= this.#pieces[index]?.length ?? 0;
    }
    return this.#pieces.slice(index).join('').slice(from - start, to - start);
  }
}
