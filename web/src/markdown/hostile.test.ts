import {describe, expect, it} from 'vitest';
import {plainFormatter, type Formatter, type MathTree} from './formatter';
import HOSTILE from './hostile-answers.json';
import {PromptRenderer, render, stream} from './testing';
import {typesetMath} from './typeset-math';

/** Large answers that make a parser recurse, or take a time that grows faster than they do. */
const HUGE: Readonly<Record<string, string>> = {
  'quotes in quotes': `${'>'.repeat(10_000)} x\n`.repeat(10),
  'opening brackets': '['.repeat(100_000),
  'pairs of brackets': `${'['.repeat(20_000)}x${']'.repeat(20_000)}`,
  'images without an end': '!['.repeat(50_000),
  'links without an end': '[a]('.repeat(20_000),
  'links with a title without an end': '[a](b "'.repeat(30_000),
  'links in angle brackets': '[a](<b'.repeat(30_000),
  'definitions': Array.from({length: 5000}, (_, index) => `[a${index}]: https://evil.test/${index}\n`).join(''),
  'references': Array.from({length: 20_000}, (_, index) => `[a${index}]`).join(' '),
  'lists in lists': Array.from({length: 2000}, (_, depth) => `${'  '.repeat(depth)}- x`).join('\n'),
  'lists in one line': '- '.repeat(50_000),
  'ordered lists in one line': '1. '.repeat(30_000),
  'stars': '*'.repeat(100_000),
  'openings': '*a '.repeat(50_000),
  'openings of three kinds': '*a_b~~c '.repeat(20_000),
  'closings': 'a* '.repeat(50_000),
  'nested styles': `${'*a **a '.repeat(10_000)}${'a** a* '.repeat(10_000)}`,
  'backticks of many lengths': Array.from({length: 500}, (_, length) => '`'.repeat(length + 1)).join(' '),
  'one run of backticks': `a${'`'.repeat(100_000)}`,
  'dollars': '$a '.repeat(50_000),
  'formulas without an end': '\\('.repeat(50_000) + '\\['.repeat(50_000) + '$$x'.repeat(50_000),
  'angle brackets': '<a:'.repeat(50_000),
  'addresses': 'https://a.b/('.repeat(20_000),
  'entities': '&#x'.repeat(50_000),
  'backslashes': '\\'.repeat(100_000),
  'bars': `${'|'.repeat(50_000)}\n${'|-'.repeat(25_000)}\n${'|'.repeat(50_000)}`,
  'rows': `|a|b|\n|-|-|\n${'|x|\n'.repeat(6_000)}`,
  'headings': '# a\n'.repeat(5_000),
  'fences': '```\n'.repeat(4_000),
  'rules': '***\n'.repeat(20_000),
  'newlines': '\n'.repeat(500_000),
  'spaces': ' '.repeat(500_000),
  'tabs': '\t'.repeat(200_000),
  'a line of a megabyte': 'x'.repeat(1_000_000),
  'a line of words': 'word '.repeat(200_000),
  'code of a megabyte': `\`\`\`js\n${'let x = 1; // x\n'.repeat(62_500)}\`\`\``,
  'code in one line': `\`\`\`js\n${'x'.repeat(1_000_000)}\n\`\`\``,
  'marks over one letter': `a${'\u0301'.repeat(200_000)}`,
  'hidden characters': '\u200b'.repeat(200_000),
  'isolates': '\u2067'.repeat(100_000),
  'emoji': '😀'.repeat(100_000),
  'joined emoji': '👩‍'.repeat(50_000),
  'lone surrogates': '\ud83d'.repeat(100_000),
};

/** What an answer may consist of. */
const TAGS = new Set([
  'a', 'bdi', 'blockquote', 'br', 'button', 'code', 'del', 'div', 'em', 'figcaption', 'figure', 'h3', 'h4', 'h5', 'h6', 'hr', 'input', 'li', 'ol', 'p',
  'pre', 'span', 'strong', 'sup', 'table', 'tbody', 'td', 'th', 'thead', 'tr', 'ul',
]);
const ATTRIBUTES = new Set([
  'aria-expanded', 'aria-label', 'checked', 'class', 'dir', 'disabled', 'hidden', 'href', 'referrerpolicy', 'rel', 'role', 'scope', 'start', 'tabindex', 'target',
  'title', 'type',
]);
const MATH_ATTRIBUTES = new Set([
  'accent', 'class', 'columnalign', 'depth', 'display', 'displaystyle', 'fence', 'form', 'height', 'largeop', 'linethickness', 'lspace', 'mathvariant',
  'maxsize', 'minsize', 'movablelimits', 'notation', 'rowspacing', 'rspace', 'scriptlevel', 'separator', 'stretchy', 'style', 'symmetric', 'voffset', 'width',
]);

const typesetting: Formatter = {...plainFormatter, typeset: typesetMath};

function expectHarmless(host: HTMLElement): void {
  for (const each of host.querySelectorAll('*')) {
    const isMath = each.namespaceURI?.endsWith('MathML') ?? false;
    if (isMath) expect(each.localName).toMatch(/^(?:math|m[a-z]+)$/);
    else expect(TAGS).toContain(each.localName);
    for (const {name, value} of each.attributes) {
      expect(isMath ? MATH_ATTRIBUTES : ATTRIBUTES, `${name} of ${each.localName}`).toContain(name);
      if (name === 'href') expect(value).toMatch(/^(?:https?:\/\/[a-z0-9.-]+[/:]|mailto:)[!-~]*$/);
      if (name === 'style') expect(value).not.toMatch(/url|position|inset|@|expression/i);
    }
  }
}

describe('hostile text', () => {
  it.each(HOSTILE)('has only elements and attributes from a list: %j', text => {
    expectHarmless(render(text, {formatter: typesetting}));
    expectHarmless(stream(text, [1, 3, 7, text.length - 2, text.length - 1], {formatter: typesetting}));
    expectHarmless(render(`> - ${text.replaceAll('\n', '\n>   ')}`, {formatter: typesetting}));
    expectHarmless(render(`**[${text}](https://evil.test) \`${text}\`**`, {formatter: typesetting}));
  });

  it('names no element, so that scripts of the page find their own', () => {
    const host = render(HOSTILE.join('\n\n'), {formatter: typesetting});
    expect(host.querySelector('[id], [name], form, [style*="url"]')).toBeNull();
  });

  it('loads nothing: there is no element that has a source', () => {
    const host = render(HOSTILE.join('\n\n'), {formatter: typesetting});
    for (const open of host.querySelectorAll<HTMLButtonElement>('.image-open')) open.click();
    expect(host.querySelector('[src], [srcset], [data], [poster], [background], img, svg, link, style, script, iframe, object, video, audio, [ping]')).toBeNull();
    expectHarmless(host);
  });

  it.each([
    'javascript:alert(1)', ' java\tscript:alert(1)', 'data:text/html,x', 'vbscript:x', 'blob:a', 'file:///x', '/path', '//a.test', '?q', '#a', 'https:', 'https://',
    'https://user:password@a.test/', 'https://a.test/\u202e', 'https://a.test/\u0000', `https://a.test/${'x'.repeat(3000)}`, 'ftp://a.test', 'intent://a.test', 'about:blank',
  ])('has no link to %j', address => {
    for (const text of [`[x](${address})`, `[x](<${address}>)`, `<${address}>`, `[x]\n\n[x]: ${address}`, `![x](${address})`]) {
      expect(render(text).querySelector('a, .image'), text).toBeNull();
    }
  });

  it('has no button in a link, which would open the link', () => {
    for (const text of ['[![x](https://evil.test/a)](https://evil.test/b)', '[![x][i]][i]\n\n[i]: https://evil.test/', '[![](https://evil.test/)][l]\n\n[l]: https://evil.test/']) {
      const host = render(text);
      expect(host.querySelector('a button')).toBeNull();
      expect(host.querySelector('a')?.textContent).toMatch(/^x$|^Image$/);
    }
  });

  it('shows what it says in place of a link that is refused', () => {
    expect(render('[pay **here**](javascript:alert)').textContent).toBe('pay here (javascript:alert)');
  });
});

describe('huge text', () => {
  it.each(Object.entries(HUGE))('takes a time proportional to its length: %s', (_, text) => {
    const host = render(text);
    expect(deepest(host)).toBeLessThan(120);
  }, 20_000);

  it.each(['code in one line', 'a line of a megabyte', 'code of a megabyte'] as const)('is appended to without rendering again what is there: %s', name => {
    const text = HUGE[name] ?? '';
    const renderer = new PromptRenderer();
    renderer.show(text.slice(0, 900_000), true);
    const before = new Set(renderer.host.querySelectorAll('p, .lines'));
    let changes = 0;
    const observer = new MutationObserver(() => {});
    observer.observe(renderer.host, {subtree: true, childList: true, characterData: true});
    for (let length = 900_000; length < 904_000; length += 400) renderer.show(text.slice(0, length), true);
    for (const {target} of observer.takeRecords()) if (before.has(elementOf(target))) changes += 1;
    const last = [...before].pop();
    expect([...before].slice(0, -1).every(each => renderer.host.contains(each))).toBe(true);
    expect(changes).toBeLessThan(40);
    expect(last && renderer.host.contains(last)).toBe(true);
  }, 20_000);
});

function elementOf(node: Node): Element {
  const found = node instanceof Element ? node : node.parentElement;
  if (!found) throw new Error('A node that changed is in no element.');
  return found.closest('p, .lines') ?? found;
}

/** Returns how many elements are in elements, without recursion. */
function deepest(host: Element): number {
  let found = 0;
  const walker = document.createTreeWalker(host);
  for (let depth = 0; ;) {
    if (walker.firstChild()) depth += 1;
    else {
      while (!walker.nextSibling()) {
        if (!walker.parentNode() || depth === 0) return found;
        depth -= 1;
      }
    }
    found = Math.max(found, depth);
  }
}

describe('formulas', () => {
  it('build nothing but elements of MathML', () => {
    const tree: MathTree = {tag: 'script', attributes: {href: 'javascript:x', onclick: 'x', 'style-position': 'fixed', 'style-padding': 'url(x)', class: 'error'}, children: ['x']};
    const host = render('$x$', {formatter: {...plainFormatter, typeset: () => tree}});
    expect(host.querySelector('.math')?.innerHTML).toBe('<mrow>x</mrow>');
  });

  it('stay as they are written if they cannot be read', () => {
    expect(render('$\\frac{$', {formatter: typesetting}).textContent).toBe('$\\frac{$');
  });
});
