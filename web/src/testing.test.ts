import {readdirSync, readFileSync} from 'node:fs';
import {expect, it} from 'vitest';

it('waits long enough in all tests: the second that vi.waitFor takes is too short on a busy machine', () => {
  const files = readdirSync('src', {recursive: true, encoding: 'utf8'}).filter(name => /\.test\.tsx?$/.test(name) && name !== 'testing.test.ts');
  expect(files.length).toBeGreaterThan(30);
  expect(files.filter(name => /vi\.(waitFor|waitUntil)\(/.test(readFileSync(`src/${name}`, 'utf8')))).toEqual([]);
});
