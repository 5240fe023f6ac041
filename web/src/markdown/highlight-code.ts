/** Divides code into runs of one colour. */
import hljs from 'highlight.js/lib/core';
import type {ColouredRun} from './formatter';
import {LOADERS} from './language-loaders';
import {findLanguage, type LanguageName} from './languages';

/** The colour of each of highlight.js' scopes; those that are missing have none. */
const SCOPES: Readonly<Record<string, string>> = {
  keyword: 'keyword', literal: 'keyword', 'selector-tag': 'keyword', operator: '', doctag: 'keyword', name: 'keyword',
  title: 'name', built_in: 'name', type: 'name', attr: 'name', attribute: 'name', property: 'name', section: 'name', class: 'name',
  function: 'name', 'selector-class': 'name', 'selector-id': 'name', 'selector-attr': 'name', 'selector-pseudo': 'name',
  string: 'text', regexp: 'text', char: 'text', code: 'text', link: 'text',
  number: 'number', symbol: 'number', bullet: 'number', variable: 'number', 'template-variable': 'number',
  comment: 'note', quote: 'note', meta: 'note', addition: 'added', deletion: 'removed', strong: 'strong',
};

const ENTITIES: Readonly<Record<string, string>> = {'&amp;': '&', '&lt;': '<', '&gt;': '>', '&quot;': '"', '&#x27;': "'"};

/** Loads what a language needs; returns its name, or null if it is not known. */
export async function loadLanguage(name: string): Promise<LanguageName | null> {
  const language = findLanguage(name);
  if (!language) return null;
  for (const each of language === 'xml' ? (['xml', 'css', 'javascript'] as const) : [language]) {
    if (!hljs.getLanguage(each)) hljs.registerLanguage(each, (await LOADERS[each]()).default);
  }
  return language;
}

/** Returns the runs of a code whose language has been loaded. */
export function highlightCode(code: string, language: LanguageName): readonly ColouredRun[] {
  return readRuns(hljs.highlight(code, {language, ignoreIllegals: true}).value);
}

/** Returns the runs that highlight.js' HTML describes: nested spans, and text with entities. */
export function readRuns(html: string): readonly ColouredRun[] {
  const runs: (readonly [number, string])[] = [];
  const scopes = [''];
  for (const [found, scope] of html.matchAll(/<span class="([^"]*)">|<\/span>|&[a-z0-9#]+;|[^<&]+/g)) {
    const current = scopes[scopes.length - 1] ?? '';
    if (scope !== undefined) scopes.push(colourOf(scope) || current);
    else if (found === '</span>') scopes.pop();
    else addRun(runs, (ENTITIES[found] ?? found).length, current);
  }
  return runs;
}

function colourOf(scopes: string): string {
  const scope = scopes.replace(/^hljs-/, '').split(' ')[0] ?? '';
  return SCOPES[scope] ?? '';
}

function addRun(runs: (readonly [number, string])[], length: number, scope: string): void {
  const last = runs[runs.length - 1];
  if (last?.[1] === scope) runs[runs.length - 1] = [last[0] + length, scope];
  else runs.push([length, scope]);
}
