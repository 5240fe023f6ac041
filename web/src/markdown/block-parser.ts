/** Parses the blocks of a Markdown text that grows: CommonMark's, with tables, tasks, footnotes and formulas.
 *
 * It reads each line once, whatever the text. Its limits (depth, lengths) depend on the text alone, not on
 * how it was cut: a text that came in pieces has the same blocks as the whole. HTML is text.
 */
import {Block, isContainer, type CodeDetails, type Details, type ItemDetails, type ListDetails} from './block';
import {
  closesFence, isAmbiguous, isRule, readAlignments, readDefinition, readFence, readFootnote, readHeading, readListMarker,
  readOpenMath, readUnderline, splitRow, type ListMarker,
} from './block-syntax';
import {Line} from './line';

/** A longer line is read in pieces of so many characters. */
export const MAX_LINE = 2048;
/** A longer paragraph is divided. */
export const MAX_PARAGRAPH = 2048;
/** More rows begin another table with the same header: the layout of one table costs as much as all its rows. */
export const MAX_ROWS = 100;
/** More items begin another list, likewise. */
export const MAX_ITEMS = 100;
/** Containers in containers; the markers of deeper ones are text. */
export const MAX_DEPTH = 24;

interface Saved {
  readonly block: Block;
  readonly details: Details;
  readonly text: string;
  readonly count: number;
}

export class BlockParser {
  readonly document = new Block({kind: 'document'});
  /** The blocks that the next line may continue, from the outside; each is the last child of the one before. */
  #open: Block[] = [this.document];
  #source = '';
  #position = 0;
  /** Whether the source begins within a long line. */
  #isWithinLine = false;
  #isAfterBlank = false;
  #isPreview = false;

  append(text: string): void {
    this.#source = this.#source.slice(this.#position) + text;
    this.#position = 0;
  }

  /** Parses lines that are complete, at least `characters` of them if there are so many. Returns whether there are more. */
  advance(characters: number): boolean {
    const end = this.#position + characters;
    while (this.#position < end) if (!this.#parseLine()) return false;
    return true;
  }

  /** Parses the last line, and ends all blocks. To be called after `advance` has returned false. */
  finish(): void {
    if (this.#position < this.#source.length) this.#parse(this.#source.slice(this.#position).replace(/\r$/, ''));
    this.#position = this.#source.length;
    this.#closeTo(0);
  }

  /** Shows in the tree what the unfinished last line may become. Returns what takes it back, which comes before all else. */
  preview(): () => void {
    const line = this.#source.slice(this.#position).replace(/\r$/, '');
    const open = [...this.#open];
    const saved = open.map((block): Saved => ({block, details: block.details, text: block.text, count: block.children.length}));
    const [isAfterBlank, isWithinLine] = [this.#isAfterBlank, this.#isWithinLine];
    this.#isPreview = true;
    if (line && !this.#isHidden(line)) this.#parse(line);
    this.#isPreview = false;
    return () => {
      for (const {block, details, text, count} of saved) {
        Object.assign(block, {details, text, isOpen: true});
        block.children.length = count;
      }
      this.#open = open;
      this.#isAfterBlank = isAfterBlank;
      this.#isWithinLine = isWithinLine;
    };
  }

  /** Parses one line, or a piece of a long one; returns false if none is complete. */
  #parseLine(): boolean {
    const start = this.#position;
    const newline = this.#source.indexOf('\n', start);
    if (newline >= 0 && newline - start <= MAX_LINE) {
      this.#position = newline + 1;
      this.#parse(this.#source.slice(start, newline).replace(/\r$/, ''));
      this.#isWithinLine = false;
      return true;
    }
    if (this.#source.length - start <= MAX_LINE) return false;
    this.#position = start + MAX_LINE - (isHighSurrogate(this.#source, start + MAX_LINE - 1) ? 1 : 0);
    this.#parse(this.#source.slice(start, this.#position));
    this.#isWithinLine = true;
    return true;
  }

  /** Returns whether the unfinished last line is not shown yet, because it may be a marker. */
  #isHidden(line: string): boolean {
    if (this.#isWithinLine) return false;
    return this.#tip.details.kind === 'code' ? /^ *[`~]+ *$/.test(line) : isAmbiguous(line);
  }

  get #tip(): Block {
    return this.#open[this.#open.length - 1] ?? this.document;
  }

  #parse(text: string): void {
    if (this.#isWithinLine) this.#continueLine(text);
    else this.#parseWhole(new Line(text));
  }

  /** Adds a further piece of a long line, in which nothing begins. */
  #continueLine(text: string): void {
    const tip = this.#tip;
    if (tip.details.kind === 'code') tip.text += text;
    else this.#addText(text, '');
  }

  #parseWhole(line: Line): void {
    const matched = this.#matchContainers(line);
    const isAll = matched === this.#open.length || !isContainer(this.#tip) && matched === this.#open.length - 1;
    if (isAll && this.#continueLeaf(line)) return;
    if (line.isBlank) {
      this.#closeTo(matched);
      this.#isAfterBlank = true;
      return;
    }
    this.#startBlocks(line, matched, isAll);
    this.#isAfterBlank = false;
  }

  /** Takes the markers of the containers that the line continues; returns how many those are. */
  #matchContainers(line: Line): number {
    let matched = 1;
    for (; matched < this.#open.length; matched += 1) {
      const block = this.#open[matched];
      if (!block || !isContainer(block) || !continues(block, line)) break;
    }
    return matched;
  }

  /** Continues the code, the formula or the table at the end, if the line does; returns whether it did. */
  #continueLeaf(line: Line): boolean {
    const tip = this.#tip;
    const {details} = tip;
    if (details.kind === 'code') return details.fence ? this.#continueFenced(tip, details, line) : this.#continueIndented(tip, details, line);
    if (details.kind !== 'paragraph' || !details.mathEnd || line.isBlank) return false;
    const {content} = line;
    if (content.includes(details.mathEnd)) tip.details = {...details, mathEnd: ''};
    this.#addText(content, '\n');
    return true;
  }

  #continueFenced(code: Block, {fence}: CodeDetails, line: Line): boolean {
    this.#isAfterBlank = false;
    if (fence && line.indent <= 3 && closesFence(line.content, fence.marks)) {
      this.#closeTo(this.#open.length - 1);
      return true;
    }
    line.skipIndent(fence?.indent ?? 0);
    code.text += `\n${line.rest}`;
    return true;
  }

  #continueIndented(code: Block, details: CodeDetails, line: Line): boolean {
    if (line.isBlank) {
      code.details = {...details, blankLines: details.blankLines + 1};
      return true;
    }
    if (line.indent < 4) {
      this.#isAfterBlank = details.blankLines > 0;
      return false;
    }
    line.skipIndent(4);
    code.text += `${'\n'.repeat(details.blankLines + 1)}${line.rest}`;
    if (details.blankLines > 0) code.details = {...details, blankLines: 0};
    return true;
  }

  /** Begins the blocks whose markers come next in the line, and adds its text. */
  #startBlocks(line: Line, matched: number, isAll: boolean): void {
    const tip = this.#tip;
    let depth = matched;
    let hasStarted = false;
    while (line.indent < 4 && !line.isBlank) {
      const next = this.#startContainer(line, depth, this.#paragraphOf(tip, isAll && !hasStarted));
      if (next === 0) break;
      depth = next;
      hasStarted = true;
    }
    if (line.isBlank) return;
    if (line.indent < 4 && this.#startLeaf(line.content, line.indent, depth, this.#paragraphOf(tip, isAll && !hasStarted))) return;
    const isLazy = !hasStarted && tip.details.kind === 'paragraph';
    if (isLazy) this.#addText(line.content, '\n');
    else if (line.indent >= 4) this.#startIndented(line, depth);
    else if (isAll && !hasStarted && tip.details.kind === 'table') this.#addRow(line.content);
    else this.#startParagraph(line.content, depth);
  }

  /** Returns the block at the end if it is a paragraph that the line may go on with, as `isPossible` says. */
  #paragraphOf(tip: Block, isPossible: boolean): Block | null {
    return isPossible && tip.details.kind === 'paragraph' ? tip : null;
  }

  #startIndented(line: Line, depth: number): void {
    this.#closeTo(depth);
    line.skipIndent(4);
    this.#push({kind: 'code', language: '', fence: null, blankLines: 0}).text = `\n${line.rest}`;
  }

  /** Begins the container whose marker comes next; returns how many blocks are open then, 0 if there is none. */
  #startContainer(line: Line, depth: number, paragraph: Block | null): number {
    if (depth >= MAX_DEPTH) return 0;
    const {content, indent} = line;
    if (content.startsWith('>')) {
      this.#closeTo(depth);
      this.#push({kind: 'quote'});
      line.skip(1);
      line.skipIndent(1);
      return this.#open.length;
    }
    const footnote = paragraph ? null : readFootnote(content);
    if (footnote) {
      this.#closeTo(depth);
      this.#push({kind: 'footnote', label: footnote.label});
      line.skip(footnote.length);
      return this.#open.length;
    }
    const marker = isRule(content) ? null : readListMarker(content);
    if (!marker || (paragraph && !mayInterrupt(marker, content))) return 0;
    return this.#startItem(line, indent, marker, depth);
  }

  #startItem(line: Line, indent: number, marker: ListMarker, depth: number): number {
    this.#closeTo(depth);
    this.#openList(marker);
    line.skip(marker.length);
    const spaces = line.isBlank || line.indent > 4 ? 1 : line.indent;
    line.skipIndent(spaces);
    const item: ItemDetails = {kind: 'item', indent: indent + marker.length + spaces, task: null};
    this.#push(item);
    this.#isAfterBlank = false;
    this.#readTask(line, item);
    return this.#open.length;
  }

  /** Goes on with the list at the end, or begins another one. */
  #openList({marker, isOrdered, start}: ListMarker): void {
    const list = this.#tip;
    const isSame = list.details.kind === 'list' && list.details.marker === marker && list.details.isOrdered === isOrdered;
    if (!isSame || list.details.kind !== 'list') {
      this.#push({kind: 'list', marker, isOrdered, start, isLoose: false, isRest: false});
      return;
    }
    if (this.#isAfterBlank) list.details = {...list.details, isLoose: true};
    if (list.children.length < MAX_ITEMS) return;
    const next = list.details.start + list.children.length;
    this.#closeTo(this.#open.length - 1);
    this.#push({...list.details, start: next, isRest: true});
  }

  #readTask(line: Line, item: ItemDetails): void {
    const mark = line.indent < 4 ? /^\[([ xX])\](?=[ \t])/.exec(line.content) : null;
    if (!mark) return;
    this.#tip.details = {...item, task: mark[1] !== ' '};
    line.skip(mark[0].length);
    line.skipIndent(1);
  }

  /** Begins the block without children that the line is the beginning or the whole of; returns false if it is text. */
  #startLeaf(content: string, indent: number, depth: number, paragraph: Block | null): boolean {
    const heading = readHeading(content);
    if (heading) return this.#addLeaf(depth, {kind: 'heading', level: heading.level}, heading.text);
    const fence = readFence(content);
    if (fence) {
      this.#closeTo(depth);
      const language = /^\{?\.?([\w+#.-]{1,40})/.exec(fence.info)?.[1] ?? '';
      this.#push({kind: 'code', language, fence: {marks: fence.marks, indent}, blankLines: 0});
      return true;
    }
    if (paragraph && this.#underline(paragraph, content)) return true;
    if (paragraph && this.#startTable(paragraph, content)) return true;
    if (isRule(content)) return this.#addLeaf(depth, {kind: 'rule'});
    const definition = paragraph ? null : readDefinition(content);
    return definition !== null && this.#addLeaf(depth, {kind: 'definition', ...definition});
  }

  #addLeaf(depth: number, details: Details, text = ''): true {
    this.#closeTo(depth);
    this.#push(details).text = text;
    this.#closeTo(this.#open.length - 1);
    return true;
  }

  #underline(paragraph: Block, content: string): boolean {
    const level = readUnderline(content);
    if (!level) return false;
    paragraph.details = {kind: 'heading', level};
    this.#closeTo(this.#open.length - 1);
    return true;
  }

  /** Makes the last line of a paragraph the header of a table, if the next line declares its columns. */
  #startTable(paragraph: Block, content: string): boolean {
    const alignments = readAlignments(content);
    if (!alignments) return false;
    const cut = paragraph.text.lastIndexOf('\n');
    const header = splitRow(paragraph.text.slice(cut + 1));
    if (header.length !== alignments.length) return false;
    if (cut < 0) {
      paragraph.text = '';
      paragraph.details = {kind: 'table', alignments, header};
    } else {
      paragraph.text = paragraph.text.slice(0, cut);
      this.#closeTo(this.#open.length - 1);
      this.#push({kind: 'table', alignments, header});
    }
    this.#addCells(header, true);
    return true;
  }

  #addRow(content: string): void {
    const table = this.#tip.details;
    if (table.kind !== 'table') return;
    if (this.#tip.children.length > MAX_ROWS) {
      this.#closeTo(this.#open.length - 1);
      this.#push(table);
      this.#addCells(table.header, true);
    }
    this.#addCells(splitRow(content).slice(0, table.alignments.length), false);
  }

  #addCells(cells: readonly string[], isHeader: boolean): void {
    const table = this.#tip.details;
    if (table.kind !== 'table') return;
    const row = new Block({kind: 'row', isHeader, cells, alignments: table.alignments});
    row.isOpen = false;
    row.isFinal = !this.#isPreview;
    this.#tip.children.push(row);
  }

  #startParagraph(content: string, depth: number): void {
    this.#closeTo(depth);
    this.#push({kind: 'paragraph', mathEnd: readOpenMath(content), isRest: false});
    this.#addText(content, '');
  }

  /** Adds text to the paragraph at the end, which is divided where it becomes too long. */
  #addText(text: string, separator: string): void {
    const {details} = this.#tip;
    if (details.kind !== 'paragraph') {
      if (!isContainer(this.#tip)) this.#closeTo(this.#open.length - 1);
      this.#push({kind: 'paragraph', mathEnd: '', isRest: true}).text = text;
    } else {
      if (separator && !details.mathEnd) this.#tip.details = {...details, mathEnd: readOpenMath(text)};
      this.#tip.text += separator + text;
    }
    while (this.#tip.text.length > MAX_PARAGRAPH) this.#divide(this.#tip);
  }

  #divide(paragraph: Block): void {
    const {text} = paragraph;
    const gap = Math.max(text.lastIndexOf(' ', MAX_PARAGRAPH - 1), text.lastIndexOf('\n', MAX_PARAGRAPH - 1)) + 1;
    const limit = isHighSurrogate(text, MAX_PARAGRAPH - 1) ? MAX_PARAGRAPH - 1 : MAX_PARAGRAPH;
    const cut = gap > MAX_PARAGRAPH / 2 ? gap : limit;
    paragraph.text = text.slice(0, cut);
    this.#closeTo(this.#open.length - 1);
    this.#push({kind: 'paragraph', mathEnd: '', isRest: true}).text = text.slice(cut);
  }

  /** Adds a block at the end, which stays open. */
  #push(details: Details): Block {
    while (!mayContain(this.#tip, details)) this.#closeTo(this.#open.length - 1);
    const parent = this.#tip;
    if (this.#isAfterBlank && parent.details.kind === 'item' && parent.children.length > 0) this.#loosen();
    const block = new Block(details);
    parent.children.push(block);
    this.#open.push(block);
    return block;
  }

  /** Marks the list around the item at the end as loose. */
  #loosen(): void {
    const list = this.#open[this.#open.length - 2];
    if (list?.details.kind === 'list') list.details = {...list.details, isLoose: true} satisfies ListDetails;
  }

  /** Ends the blocks at the end until so many are open. */
  #closeTo(count: number): void {
    while (this.#open.length > count) {
      const block = this.#open.pop();
      if (!block) return;
      block.isOpen = false;
      block.isFinal = !this.#isPreview;
    }
  }
}

/** Takes the marker of a container from the line, if the line continues it. */
function continues({details, children}: Block, line: Line): boolean {
  if (details.kind === 'list') return true;
  if (details.kind === 'quote') {
    if (line.indent > 3 || !line.content.startsWith('>')) return false;
    line.skip(1);
    line.skipIndent(1);
    return true;
  }
  const indent = details.kind === 'item' ? details.indent : 4;
  if (line.isBlank) return children.length > 0;
  if (line.indent < indent) return false;
  line.skipIndent(indent);
  return true;
}

function mayContain({details: {kind: parent}}: Block, {kind}: Details): boolean {
  if (parent === 'list') return kind === 'item';
  return parent === 'document' || parent === 'quote' || parent === 'item' || parent === 'footnote';
}

/** Returns whether a list may begin in the middle of a paragraph. */
function mayInterrupt({length, isOrdered, start}: ListMarker, content: string): boolean {
  return (!isOrdered || start === 1) && content.slice(length).trim() !== '';
}

function isHighSurrogate(text: string, position: number): boolean {
  const code = text.charCodeAt(position);
  return code >= 0xd800 && code <= 0xdbff;
}
