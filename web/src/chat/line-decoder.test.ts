import {describe, expect, it} from 'vitest';
import {LineDecoder} from './line-decoder';

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const TEXT = '{"a":"ä€😀"}\n{"b":2}\n';

describe('lines of JSON', () => {
  it('are the same wherever the bytes are cut', () => {
    const data = bytes(TEXT);
    for (let first = 0; first <= data.length; first += 1) {
      for (const second of [first, Math.min(first + 1, data.length), data.length]) {
        const decoder = new LineDecoder(0);
        const lines = [data.slice(0, first), data.slice(first, second), data.slice(second)].flatMap(part => decoder.push(part));
        expect(lines.map(({value}) => value)).toEqual([{a: 'ä€😀'}, {b: 2}]);
        expect(decoder.offset).toBe(data.length);
      }
    }
  });

  it('count when they are complete', () => {
    const decoder = new LineDecoder(100);
    expect(decoder.push(bytes('{"a":1}\n{"b"'))).toHaveLength(1);
    expect(decoder.offset).toBe(108);
  });

  it('of ctllm do not count', () => {
    const decoder = new LineDecoder(0);
    const lines = decoder.push(bytes('{"error":"of Ollama"}\n{"error":{"code":"x","message":"m"}}\n'));
    expect(lines.map(({isFault}) => isFault)).toEqual([false, true]);
    expect(decoder.offset).toBe(22);
  });

  it('that were cut off do not count, nor what follows them but an error', () => {
    const decoder = new LineDecoder(0);
    const lines = decoder.push(bytes('{"a":1}\n{"b":\n{"c":3}\n{"error":{"code":"x","message":"m"}}\n'));
    expect(lines.map(({value}) => value)).toEqual([{a: 1}, {error: {code: 'x', message: 'm'}}]);
    expect(decoder.offset).toBe(8);
  });
});
