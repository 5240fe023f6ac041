import {describe, expect, it} from 'vitest';
import {visibleText} from './visible-text';

describe('the visible text', () => {
  it.each([
    ['overrides of the direction', 'a\u202eb', 'a⟨U+202E⟩b'],
    ['isolates', '\u2066\u2067a\u2069', '⟨U+2066 U+2067⟩a⟨U+2069⟩'],
    ['escapes of terminals', '\x1b[31mred\x9b0m', '⟨U+001B⟩[31mred⟨U+009B⟩0m'],
    ['spaces without width', 'a\u200b\u200b\u200bb', 'a⟨U+200B × 3⟩b'],
    ['tags', 'a\u{e0068}\u{e0069}', 'a⟨U+E0068 U+E0069⟩'],
    ['joiners in a row', 'a\u200c\u200d\u200c\u200db', 'a⟨U+200C U+200D U+200C U+200D⟩b'],
    ['lone surrogates', 'a\ud83d b\ude00', 'a\ufffd b\ufffd'],
    ['marks over marks', `a${'\u0301'.repeat(50)}b`, `a${'\u0301'.repeat(4)}b`],
  ])('shows %s', (_, text, shown) => expect(visibleText(text)).toBe(shown));

  it.each(['plain\n\ttext', 'நிலா नमस्ते ที่นี่ พูด', 'שָׁלוֹם שלום\u200f', 'می\u200cخواهم', '👩‍👩‍👧‍👦 ❤️ 🇩🇪 👍🏽', 'e\u0301 ẫ', '日本語、한국어'])('leaves %j as it is', text => expect(visibleText(text)).toBe(text));
});
