/** Parses the text within a block into a flat list of tokens; elements that hold others have an opening and a closing one.
 *
 * The time it takes is proportional to the length of the text, but for limits of its own; blocks are short.
 */
import {readAddress, type Address} from './address';
import {
  normaliseLabel, readAutolink, readBareAddress, readDestination, readEntity, readFormula, readLabel, unescape,
} from './inline-syntax';

export type Style = 'em' | 'strong' | 'del';

export type Token =
  | {readonly kind: 'text'; readonly text: string}
  | {readonly kind: 'code'; readonly text: string}
  | {readonly kind: 'break'}
  | {readonly kind: 'math'; readonly tex: string; readonly isDisplay: boolean; readonly source: string}
  | {readonly kind: 'footnote'; readonly label: string}
  | {readonly kind: 'image'; readonly alt: string; readonly address: Address | null; readonly label: string; readonly source: string}
  | {readonly kind: 'style'; readonly style: Style}
  | {readonly kind: 'link'; readonly address: Address}
  | {readonly kind: 'refused'; readonly destination: string}
  /** Is a link if the label is defined; otherwise its content, `before` and `after` are text. */
  | {readonly kind: 'reference'; readonly label: string; readonly before: string; readonly after: string}
  | {readonly kind: 'end'};

/** A run of `*`, `_` or `~` that may begin or end a style. */
interface Run {
  readonly character: string;
  readonly length: number;
  readonly canOpen: boolean;
  readonly canClose: boolean;
  /** Marks that are not used yet. */
  left: number;
  readonly opens: Style[];
  ends: number;
  previous: Run | null;
  next: Run | null;
}

interface Bracket {
  readonly isImage: boolean;
  /** Its place among the parts. */
  readonly index: number;
  /** The text position after it. */
  readonly start: number;
  readonly runBefore: Run | null;
}

type Part = Token | Run;

const PLAIN = /[^\\`*_~[\]!<&$\nhHwW]+/y;
const ADDRESS = /https?:\/\/|www\./iy;
const SPACE = /\s/u;
const PUNCTUATION = /[\p{P}\p{S}]/u;

/** Returns the tokens of a text. */
export function parseInline(text: string): readonly Token[] {
  return new InlineParser(text).parse();
}

class InlineParser {
  readonly #text: string;
  #position = 0;
  readonly #parts: Part[] = [];
  #brackets: Bracket[] = [];
  /** Of the brackets, so many can begin no link any more: there are no links in links. */
  #spent = 0;
  #lastRun: Run | null = null;
  /** Lengths of runs of backticks, with the position after which none is left. */
  readonly #missing = new Map<number, number>();

  constructor(text: string) {
    this.#text = text;
  }

  parse(): readonly Token[] {
    while (this.#position < this.#text.length) this.#step();
    this.#matchRuns(null);
    return this.#flatten();
  }

  #step(): void {
    const text = this.#text;
    PLAIN.lastIndex = this.#position;
    const plain = PLAIN.exec(text)?.[0];
    if (plain) return this.#addText(plain, this.#position + plain.length);
    const character = text.charAt(this.#position);
    if (character === '\n') return this.#addBreak();
    if (character === '`') return this.#addCode();
    if (character === '*' || character === '_' || character === '~') return this.#addRun(character);
    if (character === '[') return this.#openBracket(false);
    if (character === '!' && text[this.#position + 1] === '[') return this.#openBracket(true);
    if (character === ']') return this.#closeBracket();
    if ((character === '$' || character === '\\') && this.#addFormula()) return;
    if (character === '\\') return this.#addEscape();
    if (character === '<' && this.#addTag()) return;
    if ('hHwW'.includes(character) && this.#addBareAddress()) return;
    const entity = character === '&' ? readEntity(text, this.#position) : null;
    this.#addText(entity?.value ?? character, entity?.end ?? this.#position + 1);
  }

  #addText(text: string, end: number): void {
    this.#parts.push({kind: 'text', text});
    this.#position = end;
  }

  #add(token: Token, end: number): void {
    this.#parts.push(token);
    this.#position = end;
  }

  #addBreak(): void {
    const last = this.#parts[this.#parts.length - 1];
    if (last && 'kind' in last && last.kind === 'text') this.#parts[this.#parts.length - 1] = {kind: 'text', text: last.text.trimEnd()};
    this.#add({kind: 'break'}, this.#position + 1);
  }

  #addEscape(): void {
    const next = this.#text.charAt(this.#position + 1);
    if (next === '\n') return this.#addText('', this.#position + 1);
    if (/[!-/:-@[-`{-~]/.test(next)) return this.#addText(next, this.#position + 2);
    this.#addText('\\', this.#position + 1);
  }

  #addCode(): void {
    const start = this.#position;
    const marks = /`+/y;
    marks.lastIndex = start;
    const length = marks.exec(this.#text)?.[0].length ?? 1;
    const end = this.#findBackticks(length, start + length);
    if (end < 0) return this.#addText('`'.repeat(length), start + length);
    const text = this.#text.slice(start + length, end).replaceAll('\n', ' ');
    const isPadded = text.startsWith(' ') && text.endsWith(' ') && text.trim() !== '';
    this.#add({kind: 'code', text: isPadded ? text.slice(1, -1) : text}, end + length);
  }

  #findBackticks(length: number, from: number): number {
    if ((this.#missing.get(length) ?? Infinity) <= from) return -1;
    const runs = /`+/g;
    runs.lastIndex = from;
    for (let run = runs.exec(this.#text); run; run = runs.exec(this.#text)) if (run[0].length === length) return run.index;
    this.#missing.set(length, from);
    return -1;
  }

  #addFormula(): boolean {
    const formula = readFormula(this.#text, this.#position);
    if (!formula) return false;
    const source = this.#text.slice(this.#position, formula.end);
    this.#add({kind: 'math', ...formula.value, source}, formula.end);
    return true;
  }

  /** Adds an address in angle brackets, or a line break; any other tag is text. */
  #addTag(): boolean {
    const lineBreak = /^<br ?\/?>/i.exec(this.#text.slice(this.#position, this.#position + 6));
    if (lineBreak) {
      this.#add({kind: 'break'}, this.#position + lineBreak[0].length);
      return true;
    }
    const link = readAutolink(this.#text, this.#position);
    const address = link && readAddress(link.value);
    if (!link || !address) return false;
    this.#addLink(address, this.#text.slice(this.#position + 1, link.end - 1), link.end);
    return true;
  }

  #addBareAddress(): boolean {
    ADDRESS.lastIndex = this.#position;
    const mayBegin = ADDRESS.test(this.#text) && !this.#isInLinkText();
    const link = mayBegin ? readBareAddress(this.#text, this.#position) : null;
    const address = link && readAddress(link.value);
    if (!link || !address) {
      const end = this.#position + 1;
      this.#addText(this.#text.slice(this.#position, end), end);
      return true;
    }
    this.#addLink(address, this.#text.slice(this.#position, link.end), link.end);
    return true;
  }

  /** Returns whether the text here becomes that of a link, in which an address is text. */
  #isInLinkText(): boolean {
    const bracket = this.#brackets[this.#brackets.length - 1];
    if (!bracket) return false;
    const end = this.#text.indexOf(']', this.#position);
    return end >= 0 && '(['.includes(this.#text.charAt(end + 1) || ' ');
  }

  #addLink(address: Address, text: string, end: number): void {
    this.#parts.push({kind: 'link', address}, {kind: 'text', text});
    this.#add({kind: 'end'}, end);
  }

  #addRun(character: string): void {
    const start = this.#position;
    let end = start;
    while (this.#text[end] === character) end += 1;
    const run = makeRun(character, end - start, characterBefore(this.#text, start), characterAt(this.#text, end));
    run.previous = this.#lastRun;
    if (this.#lastRun) this.#lastRun.next = run;
    this.#lastRun = run;
    this.#parts.push(run);
    this.#position = end;
  }

  #openBracket(isImage: boolean): void {
    const start = this.#position + (isImage ? 2 : 1);
    const footnote = isImage ? null : /^\[\^([^\s\[\]^]{1,60})\]/.exec(this.#text.slice(this.#position, this.#position + 64));
    if (footnote?.[1]) return this.#add({kind: 'footnote', label: footnote[1]}, this.#position + footnote[0].length);
    this.#brackets.push({isImage, index: this.#parts.length, start, runBefore: this.#lastRun});
    this.#addText(isImage ? '![' : '[', start);
  }

  #closeBracket(): void {
    const bracket = this.#brackets.pop();
    const isSpent = this.#brackets.length < this.#spent;
    this.#spent = Math.min(this.#spent, this.#brackets.length);
    const end = this.#position + 1;
    if (!bracket || (isSpent && !bracket.isImage)) return this.#addText(']', end);
    const destination = readDestination(this.#text, end);
    if (destination) return this.#finishLink(bracket, destination.value, destination.end);
    const label = readLabel(this.#text, end);
    const content = this.#text.slice(bracket.start, this.#position);
    if (label?.value.trim()) return this.#finishReference(bracket, label.value, label.end);
    if (isPlainLabel(content)) return this.#finishReference(bracket, content, label?.end ?? end);
    this.#addText(']', end);
  }

  #finishLink(bracket: Bracket, destination: string, end: number): void {
    const address = readAddress(destination);
    if (bracket.isImage) return this.#finishImage(bracket, address, '', end);
    this.#finishElement(bracket, address ? {kind: 'link', address} : {kind: 'refused', destination}, end);
  }

  #finishReference(bracket: Bracket, label: string, end: number): void {
    const normal = normaliseLabel(unescape(label));
    if (bracket.isImage) return this.#finishImage(bracket, null, normal, end);
    const after = this.#text.slice(this.#position, end);
    const {length} = this.#brackets;
    const spent = this.#spent;
    this.#finishElement(bracket, {kind: 'reference', label: normal, before: '[', after}, end);
    this.#spent = Math.min(spent, length); // it may be text after all, in a link
  }

  #finishElement(bracket: Bracket, token: Token, end: number): void {
    this.#matchRuns(bracket.runBefore);
    this.#parts[bracket.index] = token;
    this.#add({kind: 'end'}, end);
    this.#spent = this.#brackets.length;
  }

  #finishImage(bracket: Bracket, address: Address | null, label: string, end: number): void {
    this.#lastRun = bracket.runBefore;
    if (this.#lastRun) this.#lastRun.next = null;
    this.#parts.length = bracket.index;
    const alt = unescape(this.#text.slice(bracket.start, this.#position)).replace(/[*_~`[\]]/g, '');
    const source = this.#text.slice(bracket.start - 2, end);
    this.#add({kind: 'image', alt, address, label, source}, end);
  }

  /** Finds the styles that begin and end after `bottom`; the runs there are used up then. */
  #matchRuns(bottom: Run | null): void {
    const floors = new Map<string, Run | null>();
    let closer = bottom ? bottom.next : this.#firstRun();
    while (closer) {
      const current: Run = closer;
      if (!current.canClose || current.left === 0) {
        closer = current.next;
        continue;
      }
      const key = `${current.character}${current.canOpen}${current.length % 3}${current.character === '~' ? current.length : ''}`;
      const floor = floors.has(key) ? floors.get(key) ?? null : bottom;
      const opener = findOpener(current, floor, bottom);
      if (opener) {
        join(opener, current);
        if (current.left === 0) closer = current.next;
      } else {
        floors.set(key, current.previous);
        closer = current.next;
        if (!current.canOpen) remove(current);
      }
    }
    this.#lastRun = bottom;
    if (bottom) bottom.next = null;
  }

  #firstRun(): Run | null {
    let run = this.#lastRun;
    while (run?.previous) run = run.previous;
    return run;
  }

  #flatten(): readonly Token[] {
    const tokens: Token[] = [];
    for (const part of this.#parts) {
      if ('kind' in part) tokens.push(part);
      else flattenRun(part, tokens);
    }
    return tokens;
  }
}

function flattenRun(run: Run, tokens: Token[]): void {
  for (let index = 0; index < run.ends; index += 1) tokens.push({kind: 'end'});
  if (run.left > 0) tokens.push({kind: 'text', text: run.character.repeat(run.left)});
  for (const style of [...run.opens].reverse()) tokens.push({kind: 'style', style});
}

function makeRun(character: string, length: number, before: string, after: string): Run {
  const isSpaceBefore = before === '' || SPACE.test(before);
  const isSpaceAfter = after === '' || SPACE.test(after);
  const isMarkBefore = PUNCTUATION.test(before);
  const isMarkAfter = PUNCTUATION.test(after);
  const isLeft = !isSpaceAfter && (!isMarkAfter || isSpaceBefore || isMarkBefore);
  const isRight = !isSpaceBefore && (!isMarkBefore || isSpaceAfter || isMarkAfter);
  const isUnderscore = character === '_';
  const isUsable = character !== '~' || length <= 2;
  return {
    character, length, left: length, opens: [], ends: 0, previous: null, next: null,
    canOpen: isUsable && isLeft && (!isUnderscore || !isRight || isMarkBefore),
    canClose: isUsable && isRight && (!isUnderscore || !isLeft || isMarkAfter),
  };
}

/** Returns the nearest run before `closer` that it can end; those at and before `floor` cannot be. */
function findOpener(closer: Run, floor: Run | null, bottom: Run | null): Run | null {
  for (let opener = closer.previous; opener && opener !== floor && opener !== bottom; opener = opener.previous) {
    if (opener.character !== closer.character || !opener.canOpen || opener.left === 0) continue;
    if (closer.character === '~' ? opener.length === closer.length : !isOdd(opener, closer)) return opener;
  }
  return null;
}

/** CommonMark's rule of three: runs that both open and close match only if their lengths agree. */
function isOdd(opener: Run, closer: Run): boolean {
  const mayBoth = opener.canClose || closer.canOpen;
  return mayBoth && (opener.length + closer.length) % 3 === 0 && (opener.length % 3 !== 0 || closer.length % 3 !== 0);
}

function join(opener: Run, closer: Run): void {
  const isTilde = opener.character === '~';
  const used = isTilde ? opener.left : opener.left >= 2 && closer.left >= 2 ? 2 : 1;
  opener.opens.push(isTilde ? 'del' : used === 2 ? 'strong' : 'em');
  closer.ends += 1;
  opener.left -= used;
  closer.left -= used;
  opener.next = closer;
  closer.previous = opener;
  if (opener.left === 0) remove(opener);
}

/** Takes a run out of those that can still be matched; its text stays. */
function remove({previous, next}: Run): void {
  if (previous) previous.next = next;
  if (next) next.previous = previous;
}

/** Returns whether `[content]` alone may be a reference: nothing in it means anything by itself. */
function isPlainLabel(content: string): boolean {
  return content.length <= 100 && /^[\p{L}\p{N}](?:[\p{L}\p{N}\p{M} .,:;/'’()+-]*[\p{L}\p{N}\p{M}.)+])?$/u.test(content);
}

/** Returns the character before `position`; '' at the beginning. */
function characterBefore(text: string, position: number): string {
  const last = text.charAt(position - 1);
  return /[\udc00-\udfff]/.test(last) ? text.slice(Math.max(position - 2, 0), position) : last;
}

function characterAt(text: string, position: number): string {
  return String.fromCodePoint(text.codePointAt(position) ?? 32).slice(0, position < text.length ? 2 : 0);
}
