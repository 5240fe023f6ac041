/** The blocks of a Markdown text: a tree that grows at its end. */

export type Alignment = 'left' | 'center' | 'right' | '';

export interface ListDetails {
  readonly kind: 'list';
  /** `-`, `+` or `*`; `.` or `)` of an ordered list. */
  readonly marker: string;
  readonly isOrdered: boolean;
  readonly start: number;
  /** Whether blank lines separate its items or their blocks. */
  readonly isLoose: boolean;
  /** Whether it goes on with the list before, which was too long. */
  readonly isRest: boolean;
}

export interface ItemDetails {
  readonly kind: 'item';
  /** The column at which its blocks begin. */
  readonly indent: number;
  /** Whether a task is done; null if it is none. */
  readonly task: boolean | null;
}

export interface CodeDetails {
  readonly kind: 'code';
  /** The first word after the fence. */
  readonly language: string;
  /** The fence, and its indentation; null if the code is indented. */
  readonly fence: {readonly marks: string; readonly indent: number} | null;
  /** Blank lines that belong to it only if a line of code follows. */
  readonly blankLines: number;
}

export interface TableDetails {
  readonly kind: 'table';
  readonly alignments: readonly Alignment[];
  readonly header: readonly string[];
}

export interface RowDetails {
  readonly kind: 'row';
  readonly isHeader: boolean;
  readonly cells: readonly string[];
  readonly alignments: readonly Alignment[];
}

export interface ParagraphDetails {
  readonly kind: 'paragraph';
  /** What ends the formula that its last line is in; '' outside. */
  readonly mathEnd: string;
  /** Whether it is the rest of one that was too long. */
  readonly isRest: boolean;
}

export type Details =
  | {readonly kind: 'document'}
  | {readonly kind: 'quote'}
  | ListDetails
  | ItemDetails
  | {readonly kind: 'footnote'; readonly label: string}
  | ParagraphDetails
  | {readonly kind: 'heading'; readonly level: number}
  | CodeDetails
  | {readonly kind: 'rule'}
  | TableDetails
  | RowDetails
  | {readonly kind: 'definition'; readonly label: string; readonly destination: string};

export class Block {
  /** The text of a block without children, as far as it has one; of code, each line after a newline. */
  text = '';
  readonly children: Block[] = [];
  isOpen = true;
  /** Whether it will never change again. */
  isFinal = false;

  constructor(public details: Details) {}
}

const CONTAINERS: readonly Details['kind'][] = ['document', 'quote', 'list', 'item', 'footnote'];

/** Returns whether a block consists of other blocks, which lines continue. */
export function isContainer(block: Block): boolean {
  return CONTAINERS.includes(block.details.kind);
}
