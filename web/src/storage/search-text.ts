/** Words as the search compares them: without case, accents and width. */

/** Returns a text as the search compares it. */
export function fold(text: string): string {
  // Most texts are ASCII, and need no table.
  if (/^[\x00-\x7f]*$/.test(text)) return text.toLowerCase();
  return text.normalize('NFKD').replace(/\p{M}+/gu, '').toLowerCase().replaceAll('ß', 'ss').replaceAll('æ', 'ae').replaceAll('œ', 'oe').replaceAll('ø', 'o').replaceAll('ł', 'l');
}

const MAX_WORDS = 10;

/** Returns the different words of a query, folded. Words in quotation marks stay together. */
export function queryWords(query: string): readonly string[] {
  const found = [...query.matchAll(/["“„]([^"”“]+)["”“]?|(\S+)/g)].map(([, phrase, word]) => fold(phrase ?? word ?? '').trim().replace(/\s+/g, ' '));
  return [...new Set(found.filter(Boolean))].slice(0, MAX_WORDS);
}

/** A part of a text; `isHit` for one that is a word of the query. */
export interface Part {
  readonly text: string;
  readonly isHit: boolean;
}

/** Returns a text in parts, its hits apart from the rest. */
export function markHits(text: string, words: readonly string[]): readonly Part[] {
  const {folded, origins} = foldWithOrigins(text);
  const isHit = new Uint8Array(text.length);
  for (const word of words) {
    for (let at = folded.indexOf(word); at >= 0; at = folded.indexOf(word, at + word.length)) {
      isHit.fill(1, origins[at], origins[at + word.length] ?? text.length);
    }
  }
  const parts: Part[] = [];
  for (let start = 0, end = 1; end <= text.length; end++) {
    if (end < text.length && isHit[end] === isHit[start]) continue;
    parts.push({text: text.slice(start, end), isHit: isHit[start] === 1});
    start = end;
  }
  return parts;
}

/** Folds character by character, and tells where each one came from. */
function foldWithOrigins(text: string): {readonly folded: string; readonly origins: readonly number[]} {
  let folded = '';
  const origins: number[] = [];
  let at = 0;
  for (const character of text) {
    const each = fold(character);
    for (let i = 0; i < each.length; i++) origins.push(at);
    folded += each;
    at += character.length;
  }
  return {folded, origins};
}

const BEFORE = 40;
const LENGTH = 160;

/** Returns the part of a text around its first hit, in one line. */
export function excerpt(text: string, words: readonly string[]): string {
  const at = firstHit(text, words);
  const start = at <= BEFORE ? 0 : startOfWord(text, at - BEFORE);
  const cut = text.slice(start, start + LENGTH).replace(/[\uD800-\uDBFF]$/, '').replace(/^[\uDC00-\uDFFF]/, '').replace(/\s+/g, ' ').trim();
  return `${start > 0 ? '…' : ''}${cut}${start + LENGTH < text.length ? '…' : ''}`;
}

/** Where a word is; approximate where folding changes lengths, which `excerpt` allows for. */
function firstHit(text: string, words: readonly string[]): number {
  const folded = fold(text);
  const positions = words.map(word => folded.indexOf(word)).filter(at => at >= 0);
  if (positions.length === 0) return 0;
  const at = Math.min(...positions);
  if (folded.length === text.length) return at;
  const window = text.slice(0, 200_000);
  return foldWithOrigins(window).origins[at] ?? 0;
}

function startOfWord(text: string, at: number): number {
  const space = text.slice(at, at + BEFORE / 2).search(/\s/);
  return space < 0 ? at : at + space + 1;
}
