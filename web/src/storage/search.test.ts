import {describe, expect, it} from 'vitest';
import {SearchIndex} from './search-index';
import {excerpt, fold, markHits, queryWords} from './search-text';

const shown = (text: string, query: string): string => markHits(text, queryWords(query)).map(part => (part.isHit ? `[${part.text}]` : part.text)).join('');

describe('a query', () => {
  it.each([
    ['  Two  words ', ['two', 'words']], ['"Two  words" x', ['two words', 'x']], ['a a A', ['a']], ['', []], ['"unclosed here', ['unclosed here']],
    ['Größe', ['grosse']], ['ＡＢＣ', ['abc']],
  ])('%j is %j', (query, words) => expect(queryWords(query)).toEqual(words));
});

describe('folding', () => {
  it.each([['Café', 'cafe'], ['ÅNGSTRÖM', 'angstrom'], ['Straße', 'strasse'], ['Ⅷ', 'viii'], ['日本', '日本'], ['한국', '한국'.normalize('NFKD')]])('of %s is %s', (text, folded) => expect(fold(text)).toBe(folded));
});

describe('hits', () => {
  it.each([
    ['The Café is a cafe.', 'cafe', 'The [Café] is a [cafe].'],
    ['Cafe\u0301s', 'cafe', '[Cafe\u0301]s'],
    ['die Straße hier', 'strasse', 'die [Straße] hier'],
    ['東京都に行く', '京都', '東[京都]に行く'],
    ['😀 smile 😀', 'smile', '😀 [smile] 😀'],
    ['한국어', '한국', '[한국]어'],
    ['nothing', 'x', 'nothing'],
    ['', 'x', ''],
    ['aaaa', 'aa', '[aaaa]'],
  ])('in %j of %j', (text, query, marked) => expect(shown(text, query)).toBe(marked));
});

describe('an excerpt', () => {
  it('is around the first hit', () => {
    const text = `${'before '.repeat(100)}needle ${'after '.repeat(100)}`;
    expect(excerpt(text, ['needle'])).toMatch(/^…(before )+needle (after )+.*…$/);
    expect(excerpt('short\n\ntext', ['text'])).toBe('short text');
  });
  it('is right where letters fold to several', () => expect(excerpt(`${'ß'.repeat(500)} needle`, ['needle'])).toContain('needle'));
  it('cuts no character', () => expect(excerpt('😀'.repeat(200), ['x'])).not.toMatch(/[\uD800-\uDBFF](?![\uDC00-\uDFFF])/));
});

describe('the index', () => {
  const index = new SearchIndex();
  for (const [id, title] of [['old', 'Cooking'], ['new', 'Travel plans']] as const) index.setConversation({id, title, updatedAt: id === 'new' ? 2 : 1});
  index.setMessage({conversation: 'old', id: 'm1', content: 'A recipe for crêpes', updatedAt: 1});
  index.setMessage({conversation: 'new', id: 'm2', content: 'Crepes in Paris, and a recipe', updatedAt: 2});
  index.setMessage({conversation: 'new', id: 'm3', content: 'recipe only', updatedAt: 2});
  const found = (query: string): readonly string[] => index.find(queryWords(query)).map(({conversation, message}) => `${conversation}/${message}`);

  it.each([
    ['CREPES recipe', ['new/m2', 'old/m1']], ['cooking', ['old/']], ['travel paris', ['new/m2']], ['cooking paris', []], ['', []], ['"recipe for"', ['old/m1']],
  ])('finds %j in %j', (query, hits) => expect(found(query)).toEqual(hits));

  it('follows changes', () => {
    index.setMessage({conversation: 'new', id: 'm3', content: 'now sushi', updatedAt: 3});
    expect(found('sushi')).toEqual(['new/m3']);
    index.delete('new');
    expect(found('sushi')).toEqual([]);
  });
});
