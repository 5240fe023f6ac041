import {describe, expect, it, vi} from 'vitest';
import {GrowingText} from './growing-text';
import {html, PromptRenderer, render, stream} from './testing';
import {MarkdownRenderer} from './renderer';

describe('blocks', () => {
  it.each([
    ['a paragraph', 'one *two*\nthree', '<p>one <em>two</em><br>three</p>'],
    ['headings', '# One\n## Two ##\nThree\n---', '<h3 class="level-1">One</h3><h4 class="level-2">Two</h4><h4 class="level-2">Three</h4>'],
    ['a rule', 'a\n\n***\nb', '<p>a</p><hr><p>b</p>'],
    ['a quote', '> a\nlazy\n> > b\n\nc', '<blockquote><p>a<br>lazy</p><blockquote><p>b</p></blockquote></blockquote><p>c</p>'],
    ['an empty quote after a list', '- a\n> \nb', '<ul><li><p>a</p></li></ul><blockquote></blockquote><p>b</p>'],
    ['a tight list', '- a\n- b\n  - c\n', '<ul><li><p>a</p></li><li><p>b</p><ul><li><p>c</p></li></ul></li></ul>'],
    ['a loose list', '1. a\n\n2. b', '<ol class="loose"><li><p>a</p></li><li><p>b</p></li></ol>'],
    ['a list with a start', '7) a\n8) b', '<ol start="7"><li><p>a</p></li><li><p>b</p></li></ol>'],
    ['a list of several paragraphs', '- a\n\n  b\n- c', '<ul class="loose"><li><p>a</p><p>b</p></li><li><p>c</p></li></ul>'],
    ['a list after a paragraph', 'a:\n- b', '<p>a:</p><ul><li><p>b</p></li></ul>'],
    ['no list in a paragraph', 'in\n2024. a year', '<p>in<br>2024. a year</p>'],
    ['tasks', '- [x] a\n- [ ] b', '<ul><li class="task"><input type="checkbox" disabled=""><div><p>a</p></div></li><li class="task"><input type="checkbox" disabled=""><div><p>b</p></div></li></ul>'],
    ['code', '```js\na\n\n  b\n```\nc', '<figure class="code"><pre><code><span class="lines">a\n\n  b</span></code></pre></figure><p>c</p>'],
    ['code without an end', '~~~\n```\na', '<figure class="code"><pre><code><span class="lines">```\na</span></code></pre></figure>'],
    ['code in a list', '- a\n  ```\n  b\n  ```\n- c', '<ul><li><p>a</p><figure class="code"><pre><code><span class="lines">b</span></code></pre></figure></li><li><p>c</p></li></ul>'],
    ['indented code', 'a\n\n    b\n\n\tc\n\nd', '<p>a</p><figure class="code"><pre><code><span class="lines">b\n\nc</span></code></pre></figure><p>d</p>'],
    ['a table', 'x\n| a | b |\n|:-:|--:|\n| 1 | `\\|` |\nend', '<p>x</p><div class="table"><table><thead><tr><th class="center" scope="col">a</th><th class="right" scope="col">b</th></tr></thead><tbody><tr><td class="center">1</td><td class="right"><code>|</code></td></tr><tr><td class="center">end</td></tr></tbody></table></div>'],
    ['a line of dashes that is no table', 'a\n--|--', '<p>a<br>--|--</p>'],
    ['a footnote', 'a[^1]\n\n[^1]: note\n    more', '<p>a<sup class="footnote-mark">1</sup></p><div class="footnote"><sup>1</sup><div><p>note<br>more</p></div></div>'],
    ['HTML as text', '<div onclick="x">\n<b>a</b>\n</div>', '<p>&lt;div onclick="x"&gt;<br>&lt;b&gt;a&lt;/b&gt;<br>&lt;/div&gt;</p>'],
    ['a formula of several lines', 'a\n\n\\[\nx\n- y\n= z\n\\]\nb', '<p>a</p><p><span class="math display">\\[\nx\n- y\n= z\n\\]</span><br>b</p>'],
  ])('are shown: %s', (_, text, expected) => expect(html(text)).toBe(expected));
});

describe('text in blocks', () => {
  it.each([
    ['styles', '**a *b* c** ~~d~~ _e_f_ g_h_i', '<strong>a <em>b</em> c</strong> <del>d</del> <em>e_f</em> g_h_i'],
    ['styles in styles', '***a** b* ***c***', '<em><strong>a</strong> b</em> <em><strong>c</strong></em>'],
    ['stars of a product', '2 * 3 * 4 and 2*3', '2 * 3 * 4 and 2*3'],
    ['code', '`a` `` ` `` `*b*` ` c', '<code>a</code> <code>`</code> <code>*b*</code> ` c'],
    ['escapes and entities', '\\*a\\* &lt;&#65;&nope; \\q', '*a* &lt;A&amp;nope; \\q'],
    ['a line break in a cell', 'a<br>b<BR/>c', 'a<br>b<br>c'],
    ['a formula', '$x_1$ and \\(y\\)', '<span class="math">$x_1$</span> and <span class="math">\\(y\\)</span>'],
  ])('are shown: %s', (_, text, expected) => expect(html(text)).toBe(`<p>${expected}</p>`));

  it.each([
    'It costs $5 and $10.', 'From $5-$10, or US$20/US$30.', 'Between $5 and 6$ each', '$HOME and $PATH, $A/$B', 'a $ b $ c', '$20,000 (or $30k)', '\\$5$',
  ])('has no formula in amounts and names: %s', text => expect(render(text).querySelector('.math')).toBeNull());

  it.each(['$5$', '$2 + 2 = 4$', '$$\\frac{a}{b}$$', 'so $f(x)$, then', '($n$)'])('has a formula in %s', text => {
    expect(render(text).querySelectorAll('.math')).toHaveLength(1);
  });
});

describe('links', () => {
  const link = (text: string): HTMLAnchorElement | null => render(text).querySelector('a');

  it.each([
    ['[a](https://example.com/x?y=1 "title")', 'https://example.com/x?y=1', 'a'],
    ['<https://example.com/>', 'https://example.com/', 'https://example.com/'],
    ['see https://example.com/a_(b).', 'https://example.com/a_(b)', 'https://example.com/a_(b)'],
    ['(www.example.com)', 'https://www.example.com/', 'www.example.com'],
    ['[a][Ref]\n\n[ref]: <https://example.com/> "x"', 'https://example.com/', 'a'],
    ['[ref]\n\n[ref]: https://example.com/', 'https://example.com/', 'ref'],
    ['[ref]: https://example.com/\n\n[ref][]', 'https://example.com/', 'ref'],
    ['<a@example.com>', 'mailto:a@example.com', 'a@example.com'],
  ])('lead where they say: %s', (text, href, shown) => {
    expect([link(text)?.href, link(text)?.textContent]).toEqual([href, shown]);
    expect(link(text)?.rel).toBe('noopener noreferrer');
    expect(link(text)?.target).toBe('_blank');
  });

  it('show their host', () => {
    expect(render('[docs](https://例え.テスト/x)').textContent).toBe('docsxn--r8jz45g.xn--zckzah');
    expect(render('[example.com](https://example.com/x)').textContent).toBe('example.com');
  });

  it.each(['[bank.com](https://evil.com)', '[https://bank.com](https://bank.com.evil.com/)', '[**bank.com**/login](https://evil.com)', '[bank。com](https://evil.com)'])('are marked if their text names another host: %s', text => {
    expect(render(text).querySelector('.misleading')?.textContent).toMatch(/^Leads to .*evil\.com$/);
  });

  it('are not marked if it names a file or the same host', () => {
    for (const text of ['[README.md](https://example.com)', '[example.com/docs](https://docs.example.com/)', '[see Node.js](https://nodejs.org)']) {
      expect(render(text).querySelector('.misleading')).toBeNull();
    }
  });

  it('have no links in them', () => {
    const host = render('[a [b](https://b.test) c](https://d.test) [x [r] y](https://e.test)\n\n[r]: https://r.test');
    expect(host.querySelector('a a')).toBeNull();
    expect(Array.from(host.querySelectorAll('a'), each => each.host)).toEqual(['b.test', 'd.test', 'e.test']);
  });
});

describe('an image', () => {
  it('is its description, its host and a button; no image', () => {
    const host = render('![a **cat**](https://evil.test/?q=secret)');
    expect(host.querySelector('img, picture, source, object, iframe')).toBeNull();
    expect(host.textContent).toBe('a catevil.testAddress of the image');
    host.querySelector('button')?.click();
    expect(host.textContent).toContain('https://evil.test/?q=secret');
    expect(host.querySelector('a')?.target).toBe('_blank');
  });

  it('may be defined later', () => {
    expect(render('![cat][c]\n\n[c]: https://evil.test/').querySelector('.image-name')?.textContent).toBe('cat');
  });
});

const SAMPLE = `# Title *with* \`code\`

A paragraph with **bold**, a [link](https://example.com/a(b) "t"), a [late one][later] and [short].
Second line\\
third with $x^2$ and \`\`a \` b\`\`.

1. one
   - nested
   - [x] task

     loose
2. two
   \`\`\`python
   def f():
       return "\`\`"

   \`\`\`
> quote
lazy
> - in quote
>
>   more

| a | b |
|---|:-:|
| 1 | *2* |
| \`x\\|y\` |

\`\`\`\`
\`\`\`
not closed
\`\`\`\`
Setext
======
\\[
a
- b
\\]
text ~~gone~~ ![img][later] 😀 ä €\r
after\r
\r
[later]: <https://example.com/later>
[short]: https://example.com/short 'title'

[^1]: note
    more

    code?

- - - deep
***
\tindented

\tcode
end[^1] **unclosed [bracket](`;

describe('a text that grows', () => {
  const whole = render(SAMPLE).innerHTML;

  it('is rendered at the end as the whole text at once, wherever it was cut', () => {
    for (let cut = 1; cut < SAMPLE.length; cut += 1) expect(stream(SAMPLE, [cut]).innerHTML, `cut at ${cut}`).toBe(whole);
  }, 60_000);

  it('is so, character by character', () => {
    expect(stream(SAMPLE, Array.from(SAMPLE, (_, index) => index + 1)).innerHTML).toBe(whole);
  });

  it('is so in random pieces of a random text', () => {
    const random = makeRandom(7);
    const pieces = ['\n', '\n\n', ' ', '    ', '> ', '- ', '1. ', '# ', '```', '`', '*', '**', '_', '~~', '[', ']', '(', ')', '![', '|', '---', '|-|', '\\', '$', '$$', '\\[', '\\]', 'a', 'b c', '<br>', 'https://a.test', '[a]: https://b.test', '&amp;', '\t', '\r\n', '===', '[^1]', '[^1]: ', '😀', '[x] '];
    for (let round = 0; round < 300; round += 1) {
      const text = Array.from({length: 60}, () => pieces[Math.floor(random() * pieces.length)] ?? '').join('');
      const cuts = Array.from({length: 12}, () => Math.floor(random() * text.length)).sort((one, other) => one - other);
      expect(stream(text, cuts).innerHTML, JSON.stringify([text, cuts])).toBe(render(text).innerHTML);
    }
  }, 60_000);

  it('is so with lines and paragraphs over the limits', () => {
    const text = `${'word '.repeat(3000)}\n\`\`\`js\n${'x'.repeat(9000)}\n\`\`\`\n- ${'y😀'.repeat(3000)}\nend`;
    expect(stream(text, [100, 2047, 2048, 2049, 4096, 15000, 15020, 20000, 24000, 24100, 30000]).innerHTML).toBe(render(text).innerHTML);
  });

  it('is so with many blocks, in sections, and with long lists and tables', () => {
    const text = `${'- item *one*\n'.repeat(150)}\n${'7. a\n   b\n'.repeat(120)}\n> ${'quoted\n>\n> '.repeat(100)}\n\n|a|\n|-|\n${'|b|\n'.repeat(250)}\n${'Text\n\n'.repeat(100)}`;
    const lengths = Array.from({length: text.length / 7}, (_, index) => index * 7);
    const grown = stream(text, lengths);
    expect(grown.innerHTML).toBe(render(text).innerHTML);
    expect(grown.querySelectorAll(':scope > .section').length).toBeGreaterThan(5);
    expect(Array.from(grown.querySelectorAll('ol'), list => list.start)).toEqual([7, 107]);
    expect(grown.querySelectorAll('thead')).toHaveLength(3);
  });

  it('keeps the elements of finished blocks, and that of the last one', () => {
    const renderer = new PromptRenderer();
    renderer.show('one\n\n- a\n- b\n  c\n\n```\nx', true);
    const before = [...renderer.host.querySelectorAll('p, ul, li, figure, .lines')];
    renderer.show('one\n\n- a\n- b\n  c\n\n```\nx = 1\ny', true);
    expect(before.every(each => renderer.host.contains(each))).toBe(true);
    expect(renderer.host.querySelectorAll('p, ul, li, figure, .lines')).toHaveLength(before.length);
  });

  it.each(['', '\n', '\n-', '\n--', '\n1', '\n1.', '\n`', '\n``', '\n>', '\n#', '\n|', '\n*', '\n**', '\n- ['])('does not show a marker before it is clear what it is: %j', end => {
    const renderer = new PromptRenderer();
    renderer.show(`text${end}`, true);
    expect(renderer.host.innerHTML).toBe('<div class="section"><p>text</p></div>');
  });

  it('starts anew with another text', () => {
    const renderer = new PromptRenderer();
    renderer.show('one', true);
    renderer.show('two', true);
    renderer.show('two');
    renderer.show('two *and* more');
    expect(renderer.host.textContent).toBe('two and more');
  });

  it('is rendered in slices', () => {
    const due: (() => void)[] = [];
    const host = document.createElement('div');
    const renderer = new MarkdownRenderer(host, {sliceMs: -1, schedule: work => { due.push(work); return () => {}; }});
    renderer.show('a\n\n'.repeat(1900));
    const counts = [host.querySelectorAll('p').length];
    for (let work = due.shift(); work; work = due.shift()) {
      work();
      counts.push(host.querySelectorAll('p').length);
    }
    expect(counts).toEqual([500, 1000, 1500, 1900]);
  });

  it('is read from where it was shown to, if it comes from something that grows', () => {
    const source = new GrowingText();
    const slice = vi.spyOn(source, 'slice');
    const {host, show} = promptly();
    let text = '';
    for (const piece of ['# One', '\n\ntwo *thr', 'ee*', '\n\n- four', '\n- five']) {
      text += piece;
      source.append(piece);
      show(text, {isStreaming: true, source});
    }
    source.append(' and what is not shown yet');
    show(text);
    expect(host.innerHTML).toBe(render(text).innerHTML);
    expect(slice.mock.calls).toEqual([[5, 15], [15, 18], [18, 26], [26, 33]]);
    show('something else', {isStreaming: true, source});
    expect(host.textContent).toBe('something else');
  });

  it('keeps the nodes of a paragraph that words are added to', () => {
    const {host, show} = promptly();
    const nodes = (): readonly ChildNode[] => [...host.querySelector('p')?.childNodes ?? []];
    const begun = 'It *is* <a> `code`, [a](https://example.com/) and wor';
    show(begun, {isStreaming: true});
    const before = nodes();
    expect(before.length).toBeGreaterThan(5);
    for (const text of [`${begun}ds, **mo`, `${begun}ds, **more`, `${begun}ds, **more \u202e`]) {
      show(text, {isStreaming: true});
      expect(nodes().every((node, index) => node === before[index])).toBe(true);
      expect(host.innerHTML).toBe(render(text).innerHTML);
    }
    show(`${begun}ds, **more \u202e** and`, {isStreaming: true});
    expect(host.innerHTML).toBe(render(`${begun}ds, **more \u202e** and`).innerHTML);
  });

  it('is given to the layout in small parts while it streams, however much arrives and however fast it is parsed', () => {
    const due: (() => void)[] = [];
    const host = document.createElement('div');
    const renderer = new MarkdownRenderer(host, {sliceMs: Infinity, schedule: work => { due.push(work); return () => {}; }});
    renderer.show('a\n\n'.repeat(1200), {isStreaming: true});
    const counts = [host.querySelectorAll('p').length];
    for (let work = due.shift(); work; work = due.shift()) {
      work();
      counts.push(host.querySelectorAll('p').length);
    }
    expect(counts).toEqual([0, 500, 1000, 1200]);
  });
});

/** Returns a renderer that shows everything at once, and its element. */
function promptly() {
  const host = document.createElement('div');
  const due: (() => void)[] = [];
  const renderer = new MarkdownRenderer(host, {schedule: work => { due.push(work); return () => {}; }});
  const show = (...values: Parameters<MarkdownRenderer['show']>): void => {
    renderer.show(...values);
    for (let work = due.shift(); work; work = due.shift()) work();
  };
  return {host, show};
}

/** Returns numbers from 0 to 1 that are the same each time. */
function makeRandom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state * 1_103_515_245 + 12_345) % 2_147_483_648;
    return state / 2_147_483_648;
  };
}
