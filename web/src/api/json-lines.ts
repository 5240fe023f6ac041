/** Responses of JSON lines, such as Ollama's progress of a pull. */
import {isObject} from './http';

/** The most characters of a line: what exceeds it is no progress. */
const MAX_LINE = 1_000_000;

/** Yields the objects of a response of JSON lines; skips what is none. Closes the connection when the loop ends. */
export async function* readJsonLines(body: ReadableStream<Uint8Array>): AsyncGenerator<Readonly<Record<string, unknown>>> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let incomplete = '';
  try {
    for (;;) {
      const {value, done} = await reader.read();
      incomplete += done ? decoder.decode() : decoder.decode(value, {stream: true});
      const lines = incomplete.split('\n');
      incomplete = done ? '' : (lines.pop() ?? '');
      for (const line of lines) {
        const parsed = parseLine(line);
        if (parsed) yield parsed;
      }
      if (done) return;
      if (incomplete.length > MAX_LINE) throw new Error('The response has a line that is too long.');
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parseLine(line: string): Readonly<Record<string, unknown>> | null {
  try {
    const parsed: unknown = JSON.parse(line);
    return isObject(parsed) ? parsed : null;
  } catch {
    return null; // an empty line, or a truncated one at the end
  }
}
