/** The syntax of blocks, as far as one line shows it. */
import type {Alignment} from './block';

export interface ListMarker {
  /** How many characters it has. */
  readonly length: number;
  readonly marker: string;
  readonly isOrdered: boolean;
  readonly start: number;
}

const MAX_COLUMNS = 100;

export function readListMarker(content: string): ListMarker | null {
  const bullet = /^[-+*](?=[ \t]|$)/.exec(content);
  if (bullet) return {length: 1, marker: bullet[0], isOrdered: false, start: 1};
  const ordered = /^(\d{1,9})([.)])(?=[ \t]|$)/.exec(content);
  if (!ordered) return null;
  return {length: ordered[0].length, marker: ordered[2] ?? '.', isOrdered: true, start: Number(ordered[1])};
}

/** Returns level and text of a heading with `#`. */
export function readHeading(content: string): {readonly level: number; readonly text: string} | null {
  const found = /^(#{1,6})(?:[ \t]+|$)/.exec(content);
  if (!found) return null;
  const text = content.slice(found[0].length).trimEnd();
  const end = text.replace(/#+$/, '');
  const isClosed = end === '' || /[ \t]$/.test(end);
  return {level: found[1]?.length ?? 1, text: isClosed ? end.trimEnd() : text};
}

/** Returns the marks of a fence that opens a block of code, and what follows them. */
export function readFence(content: string): {readonly marks: string; readonly info: string} | null {
  const marks = /^(?:`{3,}|~{3,})/.exec(content)?.[0];
  if (!marks) return null;
  const info = content.slice(marks.length).trim();
  return marks.startsWith('`') && info.includes('`') ? null : {marks, info};
}

export function closesFence(content: string, marks: string): boolean {
  if (!content.startsWith(marks)) return false;
  const end = content.trimEnd();
  const character = marks.charAt(0);
  for (let position = marks.length; position < end.length; position += 1) if (end[position] !== character) return false;
  return true;
}

export function isRule(content: string): boolean {
  const marks = content.replace(/[ \t]/g, '');
  const first = marks.charAt(0);
  return marks.length >= 3 && '-_*'.includes(first) && marks === first.repeat(marks.length);
}

/** Returns the level of the heading whose text is above such a line; 0 if it is none. */
export function readUnderline(content: string): number {
  const marks = content.trimEnd();
  if (/^=+$/.test(marks)) return 1;
  return /^-+$/.test(marks) ? 2 : 0;
}

/** Returns the alignments of the columns that a line of dashes declares. */
export function readAlignments(content: string): readonly Alignment[] | null {
  if (!/^[|\-: \t]+$/.test(content) || !content.includes('-') || !/[|:]/.test(content)) return null;
  const cells = splitRow(content);
  if (!cells.every(cell => /^:?-+:?$/.test(cell))) return null;
  return cells.map(cell => {
    if (cell.endsWith(':')) return cell.startsWith(':') ? 'center' : 'right';
    return cell.startsWith(':') ? 'left' : '';
  });
}

/** Returns the cells of a row of a table, without the bars between them. */
export function splitRow(line: string): readonly string[] {
  const text = line.trim();
  const cells: string[] = [];
  let cell = '';
  for (let position = text.startsWith('|') ? 1 : 0; position < text.length; position += 1) {
    const character = text.charAt(position);
    if (character === '|') {
      if (cells.length >= MAX_COLUMNS) return cells;
      cells.push(cell.trim());
      cell = '';
    } else if (character === '\\' && text[position + 1] === '|') {
      cell += '|';
      position += 1;
    } else if (character === '\\') {
      cell += character + text.charAt(position + 1);
      position += 1;
    } else cell += character;
  }
  if (cell.trim() !== '' || !text.endsWith('|')) cells.push(cell.trim());
  return cells;
}

/** Returns label and destination of a line `[label]: destination "title"`. */
export function readDefinition(content: string): {readonly label: string; readonly destination: string} | null {
  const found = /^\[(?!\^)((?:[^\[\]\\]|\\.){1,200})\]:[ \t]*(?:<([^<>\s]{0,2000})>|([^<\s]\S{0,2000}))(?:[ \t]+(?:"[^"]*"|'[^']*'|\([^()]*\)))?[ \t]*$/.exec(content);
  const label = found?.[1]?.trim();
  return label ? {label, destination: found?.[2] ?? found?.[3] ?? ''} : null;
}

/** Returns the label of a line that begins a footnote, and the length of its beginning. */
export function readFootnote(content: string): {readonly label: string; readonly length: number} | null {
  const found = /^\[\^([^\s\[\]^]{1,60})\]:/.exec(content);
  return found?.[1] ? {label: found[1], length: found[0].length} : null;
}

/** Returns what ends the formula that a line begins and does not end; '' if it does not. */
export function readOpenMath(content: string): string {
  const begin = content.slice(0, 2);
  const end = begin === '$$' ? '$$' : begin === '\\[' ? '\\]' : '';
  return end && !content.includes(end, 2) ? end : '';
}

/** Returns whether an unfinished line may become anything, as markers alone do: nothing of it is shown then. */
export function isAmbiguous(line: string): boolean {
  return line.length <= 300 && /^[\s>]*(?:[-+*_=#~`:|$\\ \t]+|\d{1,9}[.)]?|[-+*][ \t]+\[[ xX]?\]?)?\s*$/.test(line);
}
