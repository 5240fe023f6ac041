/** The syntax of text within a block, as far as it can be read at one place of it. */

/** Something that was read, and where the text goes on. */
export interface Found<T> {
  readonly value: T;
  readonly end: number;
}

const MAX_DESTINATION = 2000;
const MAX_TITLE = 500;
const MAX_LABEL = 200;
const MAX_FORMULA = 2000;
const MAX_PARENTHESES = 16;

const ENTITIES: Readonly<Record<string, string>> = {
  amp: '&', lt: '<', gt: '>', quot: '"', apos: "'", nbsp: '\u00a0', copy: '©', reg: '®', trade: '™', hellip: '…',
  mdash: '—', ndash: '–', lsquo: '‘', rsquo: '’', ldquo: '“', rdquo: '”', laquo: '«', raquo: '»', bull: '•', middot: '·',
  deg: '°', plusmn: '±', times: '×', divide: '÷', frac12: '½', euro: '€', pound: '£', yen: '¥', cent: '¢', sect: '§',
  para: '¶', larr: '←', uarr: '↑', rarr: '→', darr: '↓', harr: '↔', le: '≤', ge: '≥', ne: '≠', infin: '∞', check: '✓',
};

/** Returns the character that an entity at `position` stands for. */
export function readEntity(text: string, position: number): Found<string> | null {
  const found = /^&(?:#(\d{1,7})|#[xX]([0-9a-fA-F]{1,6})|([a-z0-9]{2,8}));/.exec(text.slice(position, position + 12));
  if (!found) return null;
  const end = position + found[0].length;
  if (found[3]) {
    const value = Object.hasOwn(ENTITIES, found[3]) ? ENTITIES[found[3]] : undefined;
    return value === undefined ? null : {value, end};
  }
  const code = found[1] ? Number(found[1]) : Number.parseInt(found[2] ?? '', 16);
  const isValid = code > 0 && code <= 0x10ffff && !(code >= 0xd800 && code <= 0xdfff);
  return {value: isValid ? String.fromCodePoint(code) : '\ufffd', end};
}

/** Returns the text with its escapes and entities replaced. */
export function unescape(text: string): string {
  return text
    .replace(/\\([!-/:-@[-`{-~])/g, '$1')
    .replace(/&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-z0-9]{2,8});/g, whole => readEntity(whole, 0)?.value ?? whole);
}

/** Reads `(destination "title")` at `position`. */
export function readDestination(text: string, position: number): Found<string> | null {
  if (text[position] !== '(') return null;
  const destination = readTarget(text, skipSpace(text, position + 1));
  if (!destination) return null;
  let end = skipSpace(text, destination.end);
  if (end > destination.end) end = skipSpace(text, readTitle(text, end));
  return text[end] === ')' ? {value: unescape(destination.value), end: end + 1} : null;
}

function readTarget(text: string, start: number): Found<string> | null {
  if (text[start] === '<') {
    const found = /^<([^<>\n]*)>/.exec(text.slice(start, start + MAX_DESTINATION));
    return found ? {value: found[1] ?? '', end: start + found[0].length} : null;
  }
  let depth = 0;
  let end = start;
  for (; end < text.length && end - start < MAX_DESTINATION; end += 1) {
    const character = text.charAt(end);
    if (character <= ' ' || character === '\x7f') break;
    if (character === '\\') end += 1;
    else if (character === '(' && ++depth > MAX_PARENTHESES) return null;
    else if (character === ')' && --depth < 0) break;
  }
  return depth > 0 ? null : {value: text.slice(start, end), end};
}

/** Returns where the title at `position` ends; `position` if there is none. */
function readTitle(text: string, position: number): number {
  const found = /^(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|\((?:[^()\\]|\\.)*\))/s.exec(text.slice(position, position + MAX_TITLE));
  return position + (found?.[0].length ?? 0);
}

function skipSpace(text: string, position: number): number {
  let end = position;
  while (end < text.length && ' \t\n'.includes(text.charAt(end))) end += 1;
  return end;
}

/** Reads `[label]` at `position`. */
export function readLabel(text: string, position: number): Found<string> | null {
  const found = /^\[((?:[^\[\]\\]|\\.)*)\]/s.exec(text.slice(position, position + MAX_LABEL));
  return found ? {value: found[1] ?? '', end: position + found[0].length} : null;
}

/** Returns how labels are compared. */
export function normaliseLabel(label: string): string {
  return label.trim().replace(/\s+/g, ' ').toLowerCase();
}

/** Reads `<address>` at `position`; its value is the address. */
export function readAutolink(text: string, position: number): Found<string> | null {
  const found = /^<(?:([a-z][a-z0-9+.-]{1,31}:[^\s<>]*)|([\w.!#$%&'*+/=?^`{|}~-]{1,64}@[\w.-]{1,200}))>/i.exec(text.slice(position, position + MAX_DESTINATION));
  if (!found) return null;
  return {value: found[1] ?? `mailto:${found[2] ?? ''}`, end: position + found[0].length};
}

/** Reads an address without brackets at `position`, as far as it goes. */
export function readBareAddress(text: string, position: number): Found<string> | null {
  if (/[\p{L}\p{N}_]/u.test(text.charAt(position - 1))) return null;
  const found = /^(?:https?:\/\/|www\.)[^\s<>\x60"\u201c\u201d]+/i.exec(text.slice(position, position + MAX_DESTINATION));
  if (!found || found[0].length >= MAX_DESTINATION) return null;
  const address = trimAddress(found[0]);
  if (!/^(?:https?:\/\/|www\.)[^\s.:/?#]/i.test(address) || !address.includes('.', 5) && !/localhost|\/\/\d|\/\/\[/.test(address)) return null;
  return {value: address.startsWith('h') || address.startsWith('H') ? address : `https://${address}`, end: position + address.length};
}

/** Returns an address without the punctuation of the sentence around it. */
function trimAddress(address: string): string {
  let end = address.length;
  let surplus = count(address, ')') - count(address, '(');
  for (; end > 0; end -= 1) {
    const last = address.charAt(end - 1);
    if (last === ')' && surplus > 0) surplus -= 1;
    else if (!'?!.,:;*_~\'|]}\\$'.includes(last)) break;
  }
  return address.slice(0, end);
}

function count(text: string, character: string): number {
  let found = 0;
  for (let position = text.indexOf(character); position >= 0; position = text.indexOf(character, position + 1)) found += 1;
  return found;
}

export interface Formula {
  readonly tex: string;
  readonly isDisplay: boolean;
}

const MATH: readonly (readonly [string, string, boolean])[] = [['$$', '$$', true], ['\\[', '\\]', true], ['\\(', '\\)', false]];

/** Reads a formula at `position`: `$…$`, `$$…$$`, `\(…\)` or `\[…\]`. Amounts of money are none. */
export function readFormula(text: string, position: number): Found<Formula> | null {
  for (const [begin, end, isDisplay] of MATH) {
    if (!text.startsWith(begin, position)) continue;
    const start = position + begin.length;
    const stop = text.slice(start, start + MAX_FORMULA).indexOf(end);
    const tex = text.slice(start, start + stop).trim();
    return stop < 0 || !tex ? null : {value: {tex, isDisplay}, end: start + stop + end.length};
  }
  return text[position] === '$' ? readDollars(text, position) : null;
}

function readDollars(text: string, position: number): Found<Formula> | null {
  const found = /^\$(?![\s$])((?:[^$\\]|\\[^])*?)\$/.exec(text.slice(position, position + MAX_FORMULA));
  if (!found || /[\p{L}\p{N}$\\]/u.test(text.charAt(position - 1))) return null;
  const tex = found[1] ?? '';
  const end = position + found[0].length;
  const isMoney = /\s$/.test(tex) || /[\p{L}\p{N}$]/u.test(text.charAt(end)) || /^\d/.test(tex) && /(?:^|[^\\\p{L}])\p{L}{2,}/u.test(tex);
  return isMoney ? null : {value: {tex, isDisplay: false}, end};
}
