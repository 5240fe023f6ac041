/** Colours code and typesets formulas, away from the page: text of a model may make them slow. */

/** So many characters with the same colour; '' for none. */
export type ColouredRun = readonly [length: number, scope: string];

/** A node of MathML: an element, or a text. */
export type MathTree = string | {
  readonly tag: string;
  readonly attributes: Readonly<Record<string, string>>;
  readonly children: readonly MathTree[];
};

export type Task =
  | {readonly kind: 'highlight'; readonly code: string; readonly language: string}
  | {readonly kind: 'math'; readonly tex: string; readonly isDisplay: boolean};

/** Does a task; null if it cannot be done. */
export interface Formatter {
  /** Returns the runs of a code, which have its length together. */
  highlight(code: string, language: string): Promise<readonly ColouredRun[] | null>;
  /** Returns a formula; without a promise if it is known already. */
  typeset(tex: string, isDisplay: boolean): Promise<MathTree | null> | MathTree | null;
}

/** Shows code and formulas as they are written. */
export const plainFormatter: Formatter = {
  highlight: () => Promise.resolve(null),
  typeset: () => null,
};
