/** Splits the bytes of a response into complete lines of JSON, and counts the bytes of Ollama's. */
import {isObject} from '../api/http';

export interface Line {
  readonly value: Readonly<Record<string, unknown>>;
  /** Whether it is an error of ctllm's, which is not part of Ollama's response. */
  readonly isFault: boolean;
}

const NEWLINE = 10;

/** Bytes may be cut anywhere, also within a character: only complete lines are decoded. */
export class LineDecoder {
  /** The offset behind the last complete line of Ollama's. */
  offset: number;
  #rest: Uint8Array[] = [];
  /** Whether a line was cut off: a proxy ends it to add its error, and whatever follows is not at this offset. */
  #isSpoiled = false;
  readonly #decoder = new TextDecoder();

  constructor(offset: number) {
    this.offset = offset;
  }

  /** Returns the lines that `bytes` completes. */
  push(bytes: Uint8Array): readonly Line[] {
    const lines: Line[] = [];
    let start = 0;
    for (let end = bytes.indexOf(NEWLINE); end >= 0; end = bytes.indexOf(NEWLINE, start)) {
      this.#rest.push(bytes.subarray(start, end + 1));
      const line = this.#take();
      if (line) lines.push(line);
      start = end + 1;
    }
    if (start < bytes.length) this.#rest.push(bytes.slice(start));
    return lines;
  }

  #take(): Line | null {
    const length = this.#rest.reduce((sum, part) => sum + part.length, 0);
    const text = this.#rest.map(part => this.#decoder.decode(part, {stream: true})).join('') + this.#decoder.decode();
    this.#rest = [];
    const value = parse(text);
    const isFault = isObject(value?.['error']);
    if (isFault && value) return {value, isFault};
    this.#isSpoiled ||= value === null;
    if (this.#isSpoiled || !value) return null;
    this.offset += length;
    return {value, isFault};
  }
}

function parse(text: string): Readonly<Record<string, unknown>> | null {
  try {
    const value: unknown = JSON.parse(text);
    return isObject(value) ? value : null;
  } catch {
    return null;
  }
}
