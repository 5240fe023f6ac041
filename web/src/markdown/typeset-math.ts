/** Typesets formulas in TeX. */
import temml from 'temml';
import type {MathTree} from './formatter';

/** What a node of Temml's tree may have. */
interface Node {
  readonly type?: string;
  readonly text?: string;
  readonly attributes?: Readonly<Record<string, unknown>>;
  readonly classes?: readonly string[];
  readonly style?: Readonly<Record<string, unknown>>;
  readonly children?: readonly Node[];
}

const MAX_NODES = 5000;
const MAX_DEPTH = 60;

/** Returns a formula in MathML; null if it cannot be read. No command of it loads or links anything. */
export function typesetMath(tex: string, isDisplay: boolean): MathTree | null {
  let tree: Node;
  try {
    tree = temml.__renderToMathMLTree(tex, {displayMode: isDisplay, throwOnError: true, trust: false, strict: false, maxSize: [20, 40], maxExpand: 300});
  } catch {
    return null;
  }
  let count = 0;
  const convert = (node: Node, depth: number): readonly MathTree[] => {
    count += 1;
    if (typeof node.text === 'string') return [node.text];
    const children = count > MAX_NODES || depth > MAX_DEPTH ? [] : (node.children ?? []).flatMap(child => convert(child, depth + 1));
    return node.type ? [{tag: node.type, attributes: readAttributes(node), children}] : children;
  };
  const [formula] = convert(tree, 0);
  return count > MAX_NODES ? null : formula ?? null;
}

function readAttributes({attributes = {}, classes = [], style = {}}: Node): Readonly<Record<string, string>> {
  const read: Record<string, string> = {};
  for (const [name, value] of Object.entries(attributes)) if (name !== 'style') read[name] = String(value);
  for (const [name, value] of Object.entries(style)) read[`style-${name.replace(/[A-Z]/g, '-$&').toLowerCase()}`] = String(value);
  const known = classes.filter(each => each.startsWith('tml-'));
  if (known.length > 0) read['class'] = known.join(' ');
  return read;
}
