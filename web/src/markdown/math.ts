/** Builds formulas in MathML from lists of what may pass. */
import type {MathTree} from './formatter';
import {visibleText} from './visible-text';

const NAMESPACE = 'http://www.w3.org/1998/Math/MathML';

const TAGS: ReadonlySet<string> = new Set([
  'math', 'maction', 'menclose', 'merror', 'mfrac', 'mi', 'mmultiscripts', 'mn', 'mo', 'mover', 'mpadded', 'mphantom', 'mprescripts',
  'mroot', 'mrow', 'ms', 'mspace', 'msqrt', 'mstyle', 'msub', 'msubsup', 'msup', 'mtable', 'mtd', 'mtext', 'mtr', 'munder', 'munderover',
]);

const ATTRIBUTES: ReadonlySet<string> = new Set([
  'accent', 'accentunder', 'align', 'columnalign', 'columnlines', 'columnspacing', 'depth', 'dir', 'display', 'displaystyle', 'fence', 'form',
  'height', 'largeop', 'linethickness', 'lspace', 'mathsize', 'mathvariant', 'maxsize', 'minsize', 'movablelimits', 'notation',
  'rowalign', 'rowlines', 'rowspacing', 'rspace', 'scriptlevel', 'separator', 'stretchy', 'symmetric', 'voffset', 'width',
]);

/** Styles are properties of an element; the page allows no style attribute. */
const STYLES: ReadonlySet<string> = new Set([
  'border-bottom', 'border-left', 'border-right', 'border-top', 'font-style', 'font-weight', 'math-depth', 'math-style', 'padding',
  'padding-left', 'padding-right', 'text-align',
]);

/** Operators without a shape: the application of a function, a product, a separator, a sum (MathML Core, section 3.2.4). */
const INVISIBLE_OPERATOR = /^[\u2061-\u2064]$/;

/** Elements in elements; deeper ones are left out. */
const MAX_DEPTH = 60;

export function buildMath(tree: MathTree): Node {
  return build(tree, 0);
}

function build(tree: MathTree, depth: number): Node {
  if (typeof tree === 'string') return document.createTextNode(INVISIBLE_OPERATOR.test(tree) ? tree : visibleText(tree));
  const made = TAGS.has(tree.tag) ? document.createElementNS(NAMESPACE, tree.tag) : document.createElementNS(NAMESPACE, 'mrow');
  for (const [name, value] of Object.entries(tree.attributes)) setAttribute(made, name, value);
  if (depth < MAX_DEPTH) for (const child of tree.children) made.append(build(child, depth + 1));
  return made;
}

function setAttribute(made: Element, name: string, value: string): void {
  if (/url\s*\(|[\\@;{}<>]/i.test(value) || value.length > 100) return;
  if (name === 'class' && /^(?:tml-[a-z-]+ ?)+$/.test(value)) made.setAttribute('class', value);
  else if (ATTRIBUTES.has(name)) made.setAttribute(name, value);
  else if (name.startsWith('style-') && STYLES.has(name.slice(6)) && 'style' in made) {
    (made.style as CSSStyleDeclaration).setProperty(name.slice(6), value);
  }
}
