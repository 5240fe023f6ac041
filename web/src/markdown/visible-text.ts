/** Makes characters visible that would change other text, or hide some: a reader sees what is there. */

/** Marks in a row that are drawn over one character; more would cover the lines around it. */
const MAX_MARKS = 4;

/* Characters without a shape of their own: controls, overrides and isolates of the direction, spaces without
   width, fillers, tags and other selectors that can hide text. Joiners, the marks of a direction and the
   selectors of emoji are needed to write; only several in a row are hidden text. */
const HIDDEN = /[\0-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0d\ufeff\uffa0\ufff0-\ufffb\u{e0000}-\u{e0fff}]+|[\u061c\u200c-\u200f\ufe0e\ufe0f]{3,}/gu;
const LONE_SURROGATE = /\p{Cs}/gu;
const TOO_MANY_MARKS = new RegExp(`(\\p{M}{${MAX_MARKS}})\\p{M}+`, 'gu');
const SUSPECT = /[\0-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb]|\p{M}{5}|[\u{e0000}-\u{e0fff}]/u;

/** Returns the text as it may be shown. */
export function visibleText(text: string): string {
  if (!SUSPECT.test(text)) return text;
  return text
    .replace(LONE_SURROGATE, '\ufffd')
    .replace(HIDDEN, describe)
    .replace(TOO_MANY_MARKS, '$1');
}

function describe(hidden: string): string {
  const characters = Array.from(hidden);
  const names = characters.map(nameOf);
  const isSame = names.every(name => name === names[0]);
  if (characters.length === 1) return `\u27e8${names[0]}\u27e9`;
  return isSame || characters.length > 4 ? `\u27e8${names[0]} \u00d7 ${characters.length}\u27e9` : `\u27e8${names.join(' ')}\u27e9`;
}

function nameOf(character: string): string {
  return `U+${(character.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, '0')}`;
}
