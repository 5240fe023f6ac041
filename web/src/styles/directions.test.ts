/** @vitest-environment node */
import {readdirSync, readFileSync} from 'node:fs';
import {expect, test} from 'vitest';

const FOLDER = new URL('..', import.meta.url);
const files = readdirSync(FOLDER, {recursive: true, encoding: 'utf8'}).filter(name => name.endsWith('.css'));
/** What names a side: in a language that is written from right to left it is the other one. */
const SIDES = [
  /(?:margin|padding|border|inset)[\w-]*-(?:left|right)\b/g,
  /[{;]\s*(?:left|right|float|clear)\s*:/g,
  /border-(?:top|bottom)-(?:left|right)-radius/g,
];
const VALUES = /(?:margin|padding|inset)\s*:\s*([^;}!]+)/g;
/** Commas and spaces within parentheses separate nothing. */
const parts = (value: string): readonly string[] => value.trim().match(/(?:[^\s(]|\([^)]*\))+/g) ?? [];

test.each(files)('%s names no side of the window', name => {
  const text = readFileSync(new URL(name, FOLDER), 'utf8').replace(/\/\*[\s\S]*?\*\//g, '');
  expect(SIDES.flatMap(pattern => text.match(pattern) ?? [])).toEqual([]);
  const uneven = [...text.matchAll(VALUES)].map(([, value = '']) => parts(value)).filter(each => each.length === 4 && each[1] !== each[3]);
  expect(uneven).toEqual([]);
});

test.each(files)('%s has no :dir(), which the build makes into a list of languages', name => {
  expect(readFileSync(new URL(name, FOLDER), 'utf8').replace(/\/\*[\s\S]*?\*\//g, '')).not.toContain(':dir(');
});
