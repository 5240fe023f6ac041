import {describe, expect, it} from 'vitest';
import {formatRoute, parseRoute} from './router';

const ID = '0123456789abcdef0123456789abcdef';

describe('the route of a fragment', () => {
  it('is a new chat without one', () => expect(parseRoute('')).toEqual({view: 'chat', id: ''}));
  it('is a new chat for what it does not know', () => expect(parseRoute('#view=evil&id=x')).toEqual({view: 'chat', id: ''}));
  it('names a conversation', () => expect(parseRoute(`#view=chat&id=${ID}`)).toEqual({view: 'chat', id: ID}));
  it.each([{view: 'settings', id: ''}, {view: 'chat', id: ID}] as const)('is read as it was written', route => {
    expect(parseRoute(formatRoute(route))).toEqual(route);
  });
});
