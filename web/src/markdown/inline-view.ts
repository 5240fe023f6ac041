/** Shows the text within a block. */
import {t} from '../i18n/i18n';
import {element} from './dom';
import type {Formatter} from './formatter';
import {parseInline, type Token} from './inline-parser';
import {makeImage, makeLink} from './link';
import {buildMath} from './math';
import type {References} from './references';
import {visibleText} from './visible-text';

/** What the blocks of a text share. */
export interface Context {
  readonly references: References;
  readonly formatter: Formatter;
}

/** Elements in elements; deeper ones have no style. */
const MAX_DEPTH = 12;
/** The tokens that an `end` follows. */
const OPENING: readonly Token['kind'][] = ['style', 'link', 'refused', 'reference'];

interface Level {
  readonly token: Token | null;
  readonly content: ParentNode & Node;
  readonly isInLink: boolean;
}

export class InlineView {
  readonly #host: HTMLElement;
  readonly #context: Context;
  #text: string | null = null;
  #tokens: readonly Token[] = [];
  #waits: (() => void)[] = [];

  constructor(host: HTMLElement, context: Context) {
    this.#host = host;
    this.#context = context;
  }

  /** Shows another text, if it is another. */
  show(text: string): void {
    if (text === this.#text) return;
    this.#text = text;
    const before = this.#tokens;
    this.#tokens = joinTexts(parseInline(text));
    if (this.#append(before)) return;
    this.dispose();
    const fragment = document.createDocumentFragment();
    new Builder(fragment, this.#context, this.#waits).build(this.#tokens);
    this.#host.replaceChildren(fragment);
  }

  /** Appends what is new of the last text, if nothing else has changed: then all nodes stay. Returns whether it did. */
  #append(before: readonly Token[]): boolean {
    const [old, last] = [before.at(-1), this.#tokens.at(-1)];
    const node = this.#host.lastChild;
    if (old?.kind !== 'text' || last?.kind !== 'text' || !(node instanceof Text) || before.length !== this.#tokens.length) return false;
    const shown = visibleText(old.text);
    const text = visibleText(last.text);
    if (node.data !== shown || !text.startsWith(shown) || !isFlat(before) || !before.slice(0, -1).every((token, index) => isSame(token, this.#tokens[index]))) return false;
    node.appendData(text.slice(shown.length));
    return true;
  }

  dispose(): void {
    for (const end of this.#waits) end();
    this.#waits = [];
  }
}

/** Returns tokens without two texts in a row. */
function joinTexts(tokens: readonly Token[]): readonly Token[] {
  const joined: Token[] = [];
  for (const token of tokens) {
    const last = joined.at(-1);
    if (token.kind === 'text' && last?.kind === 'text') joined[joined.length - 1] = {kind: 'text', text: last.text + token.text};
    else joined.push(token);
  }
  return joined;
}

/** Whether all elements have ended. */
function isFlat(tokens: readonly Token[]): boolean {
  const depth = tokens.reduce((sum, {kind}) => sum + (OPENING.includes(kind) ? 1 : kind === 'end' ? -1 : 0), 0);
  return depth === 0;
}

/** Whether two tokens say the same; an address is another object each time it is read. */
function isSame(one: Token, other: Token | undefined): boolean {
  return JSON.stringify(one) === JSON.stringify(other);
}

class Builder {
  readonly #context: Context;
  readonly #waits: (() => void)[];
  readonly #levels: Level[];
  #text = '';

  constructor(root: DocumentFragment, context: Context, waits: (() => void)[]) {
    this.#context = context;
    this.#waits = waits;
    this.#levels = [{token: null, content: root, isInLink: false}];
  }

  build(tokens: readonly Token[]): void {
    for (const token of tokens) this.#add(token);
    while (this.#levels.length > 1) this.#end();
    this.#flush();
  }

  get #level(): Level {
    const level = this.#levels[this.#levels.length - 1];
    if (!level) throw new Error('A token ends an element that none has begun.');
    return level;
  }

  #add(token: Token): void {
    switch (token.kind) {
      case 'text': this.#text += token.text; break;
      case 'break': this.#append(element('br')); break;
      case 'code': this.#append(makeCode(token.text)); break;
      case 'math': this.#append(this.#makeFormula(token)); break;
      case 'footnote': this.#append(element('sup', 'footnote-mark', visibleText(token.label))); break;
      case 'image': this.#addImage(token); break;
      case 'end': this.#end(); break;
      default: this.#begin(token);
    }
  }

  #flush(): void {
    if (this.#text) this.#level.content.append(visibleText(this.#text));
    this.#text = '';
  }

  #append(node: Node): void {
    this.#flush();
    this.#level.content.append(node);
  }

  #begin(token: Token): void {
    this.#flush();
    const {content, isInLink} = this.#level;
    const isTooDeep = this.#levels.length > MAX_DEPTH;
    if (token.kind === 'style' && !isTooDeep) {
      const made = element(token.style);
      content.append(made);
      this.#levels.push({token, content: made, isInLink});
    } else if (token.kind === 'link' || token.kind === 'reference') {
      const inner = isInLink ? content : document.createDocumentFragment();
      this.#levels.push({token: isInLink && token.kind === 'link' ? null : token, content: inner, isInLink: true});
      if (isInLink && token.kind === 'reference') this.#text += token.before;
    } else this.#levels.push({token: token.kind === 'refused' ? token : null, content, isInLink});
  }

  #end(): void {
    if (this.#levels.length === 1) return;
    const level = this.#levels[this.#levels.length - 1];
    const outer = this.#levels[this.#levels.length - 2];
    if (!level || !outer) return;
    const {token, content} = level;
    if (outer.isInLink && token?.kind === 'reference') this.#text += token.after;
    this.#flush();
    this.#levels.pop();
    if (token?.kind === 'refused') this.#text += ` (${token.destination})`;
    if (outer.isInLink) return;
    if (token?.kind === 'link') outer.content.append(makeLink(token.address, content));
    if (token?.kind === 'reference') this.#addReference(token, content);
  }

  /** Adds a link whose label may be defined later: until then, it is text in brackets. */
  #addReference({label, before, after}: Token & {readonly kind: 'reference'}, content: Node): void {
    const address = this.#context.references.get(label);
    if (address) return this.#append(makeLink(address, content));
    const placeholder = element('span', '', before, content, after);
    this.#append(placeholder);
    this.#waits.push(this.#context.references.await(label, found => {
      const inner = document.createDocumentFragment();
      inner.append(...Array.from(placeholder.childNodes).slice(1, -1));
      placeholder.replaceWith(makeLink(found, inner));
    }));
  }

  #addImage({alt, address, label, source}: Token & {readonly kind: 'image'}): void {
    // A button in a link would open the link.
    if (this.#level.isInLink) return this.#append(element('bdi', 'image-name', visibleText(alt) || t('markdown.image')));
    const known = address ?? this.#context.references.get(label);
    if (known) return this.#append(makeImage(alt, known));
    if (!label) return void (this.#text += source);
    const placeholder = element('span', '', visibleText(source));
    this.#append(placeholder);
    this.#waits.push(this.#context.references.await(label, found => placeholder.replaceWith(makeImage(alt, found))));
  }

  #makeFormula({tex, isDisplay, source}: Token & {readonly kind: 'math'}): HTMLElement {
    const made = element('span', isDisplay ? 'math display' : 'math', visibleText(source));
    made.dir = 'ltr';
    if (isDisplay) made.tabIndex = 0;
    const show = (tree: Parameters<typeof buildMath>[0] | null): void => {
      if (tree) made.replaceChildren(buildMath(tree));
    };
    const result = this.#context.formatter.typeset(tex, isDisplay);
    if (result instanceof Promise) void result.then(show);
    else show(result);
    return made;
  }
}

function makeCode(text: string): HTMLElement {
  const made = element('code', '', visibleText(text));
  made.dir = 'ltr';
  return made;
}
