/** Nothing that a person reads is outside of the texts. */
import {readdirSync, readFileSync} from 'node:fs';
import {join} from 'node:path';
import {describe, expect, it} from 'vitest';
import {de} from './de';
import {en} from './en';

const SOURCES = join(process.cwd(), 'src');
/** Names that are the same in every language, and what is typed into a terminal. */
const NAMES = new Set(['ctllm', 'Ollama', 'Markdown', 'JSON', 'Linux', 'macOS', 'Windows', 'https://']);

const files = readdirSync(SOURCES, {recursive: true, encoding: 'utf8'})
  .filter(name => name.endsWith('.tsx') && !name.endsWith('.test.tsx'));

/** Returns texts between tags, and values of attributes that people read or hear. */
function findTexts(source: string): readonly string[] {
  const code = source.replace(/\/\*[\s\S]*?\*\//g, '').replace(/^\s*\/\/.*$/gm, '');
  const between = [...code.matchAll(/<(?!code|kbd)[a-z][\w-]*(?:\s[^<>]*)?>\s*([^<>{}()=;]*[A-Za-z]{2}[^<>{}()=;]*?)\s*<\/[a-z]/g)];
  const attributes = [...code.matchAll(/\s(?:aria-label|title|placeholder|alt)="([^"]*[A-Za-z]{2}[^"]*)"/g)];
  return [...between, ...attributes].map(([, text]) => (text ?? '').trim());
}

describe('the texts of the page', () => {
  it('are found by this test', () => {
    expect(findTexts('<p class="x">Hello you</p> <a title="Go on">{t("a")}</a> <code>ctllm show</code>')).toEqual(['Hello you', 'Go on']);
  });

  it.each(files)('are not in %s', file => {
    const found = findTexts(readFileSync(join(SOURCES, file), 'utf8')).filter(text => !NAMES.has(text));
    expect(found).toEqual([]);
  });

  it('are translated, but for names', () => {
    const keys = Object.keys(en) as (keyof typeof en)[];
    const same = keys.filter(key => en[key] === de[key] && /[a-z]{3} [a-z]{3}/i.test(en[key]));
    expect(same).toEqual([]);
    expect(keys.filter(key => de[key].trim() === '' && en[key].trim() !== '')).toEqual([]);
  });
});
