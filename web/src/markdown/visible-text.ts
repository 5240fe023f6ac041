/** Makes characters visible that would change other text, or hide some: a reader sees what is there. */

/** Marks in a row that are drawn over one character; more would cover the lines around it. */
const MAX_MARKS = 5;

/* Characters without a shape of their own: controls, overrides and isolates of the direction, spaces without
   width, fillers, tags and other selectors that can hide text. Joiners, the marks of a direction and the
   selectors of emoji are needed to write; only several in a row are hidden text. */
const HIDDEN = /[\0-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0d\ufeff\uffa0\ufff0-\ufffb\u{e0000}-\u{e0fff}]+|[\u061c\u200c-\u200f\ufe0e\ufe0f]{3,}/gu;
const LONE_SURROGATE = /\p{Cs}/gu;
const TOO_MANY_MARKS = new RegExp(`(\\p{M}{${MAX_MARKS}})\\p{M}+`, 'gu');
const SUSPECT = /[\0-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb]|\p{M}{6}/u;

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
  const [first = ''] = characters;
  const code = first.codePointAt(0) ?? 0;
  if (characters.every(character => character < ' ')) return hidden.replace(/./gs, pictureOf);
  const name = code === 0x7f ? '\u2421' : `\u27e8U+${code.toString(16).toUpperCase().padStart(4, '0')}`;
  if (code === 0x7f && characters.length === 1) return name;
  const open = code === 0x7f ? '\u27e8\u2421' : name;
  return characters.length === 1 ? `${open}\u27e9` : `${open} \u00d7 ${characters.length}\u27e9`;
}

/** Returns the picture of a control character, such as \u241b for the one that begins the escapes of terminals. */
function pictureOf(control: string): string {
  return String.fromCharCode(0x2400 + control.charCodeAt(0));
}
