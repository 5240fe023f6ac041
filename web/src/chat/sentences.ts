/** What a screen reader is told of a text that grows: whole sentences, not tokens. */

const END = /[.!?…。！？:;]["'”’)\]]*\s|\n/g;
/** A text without an end of a sentence is cut between words here. */
const MAX_LENGTH = 400;

/** Returns the offset behind the last complete sentence of `text` after `from`; `from` if there is none. */
export function endOfSentences(text: string, from: number): number {
  const rest = text.slice(from);
  let end = 0;
  for (const found of rest.matchAll(END)) end = found.index + found[0].length;
  if (end === 0 && rest.length > MAX_LENGTH) end = rest.lastIndexOf(' ') + 1;
  return from + end;
}

/** Returns Markdown as words: without its marks, and without the content of code blocks. */
export function asSpoken(markdown: string): string {
  return markdown
    .replace(/```[^\n]*\n[\s\S]*?(```|$)/g, ' ')
    .replace(/!?\[([^\]]*)\]\([^)]*\)/g, '$1')
    .replace(/^\s*(#{1,6}|[-*+]|>|\|)\s*/gm, '')
    .replace(/[*_`|~]+/g, '')
    .replace(/\s+/g, ' ')
    .trim();
}
