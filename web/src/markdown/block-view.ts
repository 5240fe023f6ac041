/** Shows blocks. A view follows its block while that grows; what is final is never rendered again. */
import {t} from '../i18n/i18n';
import {readAddress} from './address';
import type {Block, Details, ItemDetails, ListDetails, RowDetails} from './block';
import {CodeView} from './code-view';
import {element} from './dom';
import {normaliseLabel, unescape} from './inline-syntax';
import {InlineView, type Context} from './inline-view';
import {visibleText} from './visible-text';

interface View {
  readonly node: ChildNode;
  /** Returns whether it can show another block by changing as little as if the block had grown. */
  adopts(block: Block): boolean;
  /** Shows the block as it is now. One that is not final is left for later unless `isEnd`: the text so far has been parsed. */
  update(block: Block, isEnd: boolean): void;
  dispose(): void;
}

/** Elements whose content the browser lays out only near the visible part of the page hold blocks of about this size. */
const SECTION_SIZE = 3000;
/** What a block counts in addition to its text. */
const BLOCK_SIZE = 60;

/** Shows the children of a block in an element. Those of a long text are divided into sections. */
export class ChildrenView {
  readonly #host: HTMLElement;
  readonly #context: Context;
  readonly #isDivided: boolean;
  readonly #views: View[] = [];
  /** How many views, from the first, will never change again. */
  #settled = 0;
  /** The section of the first view that may change; null if it begins another one. */
  #section: HTMLElement | null = null;
  #sectionSize = 0;

  constructor(host: HTMLElement, context: Context, isDivided: boolean) {
    this.#host = host;
    this.#context = context;
    this.#isDivided = isDivided;
  }

  update({children}: Block, isEnd: boolean): void {
    for (let index = this.#settled; index < children.length; index += 1) {
      const child = children[index];
      if (!child) return;
      this.#place(index, child).update(child, isEnd);
      if (child.isFinal && index === this.#settled) this.#settle(child);
    }
    while (isEnd && this.#views.length > children.length) this.#drop(this.#views.pop());
  }

  dispose(): void {
    for (const view of this.#views) view.dispose();
  }

  /** Returns the view of a child at its place. */
  #place(index: number, child: Block): View {
    const before = this.#views[index];
    const host = this.#hostOf(child);
    if (before?.adopts(child)) {
      if (before.node.parentNode !== host) host.append(before.node);
      return before;
    }
    const view = makeView(child, this.#context);
    this.#views[index] = view;
    if (before?.node.parentNode === host) before.node.replaceWith(view.node);
    else host.append(view.node);
    before?.node.remove();
    before?.dispose();
    return view;
  }

  #settle(child: Block): void {
    this.#settled += 1;
    if (!this.#isDivided) return;
    this.#sectionSize += sizeOf(child);
    if (this.#sectionSize < SECTION_SIZE) return;
    this.#section = null;
    this.#sectionSize = 0;
  }

  #drop(view: View | undefined): void {
    view?.dispose();
    view?.node.remove();
    if (this.#section?.childNodes.length !== 0) return;
    this.#section.remove();
    this.#section = null;
  }

  #hostOf({details}: Block): Element {
    if (details.kind === 'row') return this.#host.querySelector(details.isHeader ? 'thead' : 'tbody') ?? this.#host;
    if (!this.#isDivided) return this.#host;
    if (!this.#section) {
      this.#section = element('div', 'section');
      this.#host.append(this.#section);
    }
    return this.#section;
  }
}

function sizeOf({text, details, children}: Block): number {
  const cells = details.kind === 'row' ? details.cells.join('').length : 0;
  return children.reduce((sum, child) => sum + sizeOf(child), BLOCK_SIZE + text.length + cells);
}

function makeView(block: Block, context: Context): View {
  const {details} = block;
  switch (details.kind) {
    case 'paragraph': return new TextView(element('p'), details, context);
    case 'heading': return new TextView(makeHeading(details.level), details, context);
    case 'code': return new CodeView(block, context.formatter);
    case 'row': return new RowView(details, context);
    case 'rule': return new FixedView(element('hr'), details);
    case 'definition': return new DefinitionView(context);
    default: return new ContainerView(details, context);
  }
}

/** A heading of an answer is below those of the page. */
function makeHeading(level: number): HTMLElement {
  const heading = element(level <= 1 ? 'h3' : level === 2 ? 'h4' : level === 3 ? 'h5' : 'h6');
  heading.className = `level-${level}`;
  return heading;
}

class TextView implements View {
  readonly node: HTMLElement;
  readonly #inline: InlineView;
  readonly #details: Details;

  constructor(node: HTMLElement, details: Details, context: Context) {
    this.node = node;
    if (details.kind === 'paragraph' && details.isRest) node.className = 'rest';
    this.#details = details;
    this.#inline = new InlineView(node, context);
  }

  adopts({details}: Block): boolean {
    if (details.kind === 'heading') return this.#details.kind === 'heading' && this.#details.level === details.level;
    const {kind} = this.#details;
    return details.kind === 'paragraph' && kind === 'paragraph' && details.isRest === this.#details.isRest;
  }

  update({text, isFinal}: Block, isEnd: boolean): void {
    if (isFinal || isEnd) this.#inline.show(text);
  }

  dispose(): void {
    this.#inline.dispose();
  }
}

class RowView implements View {
  readonly node = element('tr');
  readonly #isHeader: boolean;
  readonly #context: Context;
  readonly #cells: InlineView[] = [];

  constructor({isHeader}: RowDetails, context: Context) {
    this.#isHeader = isHeader;
    this.#context = context;
  }

  adopts({details}: Block): boolean {
    return details.kind === 'row' && details.isHeader === this.#isHeader;
  }

  update({details}: Block): void {
    if (details.kind !== 'row') return;
    const {cells, alignments} = details;
    cells.forEach((text, column) => this.#cell(column, alignments[column] ?? '').show(text));
    for (const cell of this.#cells.splice(cells.length)) cell.dispose();
    while (this.node.children.length > cells.length) this.node.lastElementChild?.remove();
  }

  dispose(): void {
    for (const cell of this.#cells) cell.dispose();
  }

  #cell(column: number, alignment: string): InlineView {
    const known = this.#cells[column];
    if (known) return known;
    const cell = element(this.#isHeader ? 'th' : 'td', alignment);
    if (cell.tagName === 'TH') cell.setAttribute('scope', 'col');
    this.node.append(cell);
    const view = new InlineView(cell, this.#context);
    this.#cells[column] = view;
    return view;
  }
}

/** A block without any text. */
class FixedView implements View {
  readonly node: HTMLElement;
  readonly #details: Details;

  constructor(node: HTMLElement, details: Details) {
    this.node = node;
    this.#details = details;
  }

  adopts({details}: Block): boolean {
    return details.kind === this.#details.kind;
  }

  update(): void {}
  dispose(): void {}
}

/** Shows nothing, but the links that were waiting for the definition. */
class DefinitionView implements View {
  readonly node = document.createComment('');
  readonly #context: Context;

  constructor(context: Context) {
    this.#context = context;
  }

  adopts({details}: Block): boolean {
    return details.kind === 'definition';
  }

  update({details, isFinal}: Block): void {
    if (details.kind !== 'definition' || !isFinal) return;
    const address = readAddress(unescape(details.destination));
    if (address) this.#context.references.define(normaliseLabel(unescape(details.label)), address);
  }

  dispose(): void {}
}

class ContainerView implements View {
  readonly node: HTMLElement;
  readonly #details: Details;
  readonly #children: ChildrenView;

  constructor(details: Details, context: Context) {
    this.#details = details;
    const {node, host} = makeContainer(details);
    this.node = node;
    this.#children = new ChildrenView(host, context, details.kind === 'quote');
  }

  adopts({details}: Block): boolean {
    return isSameContainer(details, this.#details);
  }

  update(block: Block, isEnd: boolean): void {
    if (block.details.kind === 'list') {
      this.node.classList.toggle('loose', block.details.isLoose);
      this.node.classList.toggle('rest', block.details.isRest);
    }
    this.#children.update(block, isEnd);
  }

  dispose(): void {
    this.#children.dispose();
  }
}

/** Returns whether two blocks have the same elements around their children. */
function isSameContainer(one: Details, other: Details): boolean {
  if (one.kind === 'list') return other.kind === 'list' && one.isOrdered === other.isOrdered && one.start === other.start;
  if (one.kind === 'item') return other.kind === 'item' && one.task === other.task;
  if (one.kind === 'footnote') return other.kind === 'footnote' && one.label === other.label;
  if (one.kind === 'table') return other.kind === 'table';
  return one.kind === other.kind;
}

/**
 * `dir=auto` reads the text of an element, but not that of elements within it that have a direction, too. So
 * only containers have it: on which side are the marks of a list, the line of a quotation? In paragraphs, items
 * and cells the style sheet lets each paragraph begin on the side of its own language.
 */
interface Container {
  readonly node: HTMLElement;
  /** The element that the children are in. */
  readonly host: HTMLElement;
}

function makeContainer(details: Details): Container {
  if (details.kind === 'list') return makeList(details);
  if (details.kind === 'item') return makeItem(details);
  if (details.kind === 'table') return makeTable();
  if (details.kind === 'footnote') return makeFootnote(details.label);
  const node = element('blockquote');
  node.dir = 'auto';
  return {node, host: node};
}

function makeList({isOrdered, start}: ListDetails): Container {
  const node = element(isOrdered ? 'ol' : 'ul');
  if (node instanceof HTMLOListElement && start !== 1) node.start = start;
  node.dir = 'auto';
  return {node, host: node};
}

function makeItem({task}: ItemDetails): Container {
  const node = element('li');
  if (task === null) return {node, host: node};
  const box = element('input');
  box.type = 'checkbox';
  box.checked = task;
  box.disabled = true;
  box.setAttribute('aria-label', t(task ? 'markdown.done' : 'markdown.open'));
  node.className = 'task';
  const host = element('div');
  node.append(box, host);
  return {node, host};
}

function makeTable(): Container {
  const table = element('table', '', element('thead'), element('tbody'));
  table.dir = 'auto'; // which decides on which side its first column is
  const node = element('div', 'table', table);
  node.tabIndex = 0;
  node.setAttribute('role', 'group');
  node.setAttribute('aria-label', t('markdown.table'));
  return {node, host: table};
}

function makeFootnote(label: string): Container {
  const host = element('div');
  return {node: element('div', 'footnote', element('sup', '', visibleText(label)), host), host};
}
