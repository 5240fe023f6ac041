import {describe, expect, it} from 'vitest';
import {formatRoute, namesNoView, parseRoute} from './router';

const ID = '0123456789abcdef0123456789abcdef';

describe('the route of a fragment', () => {
  it('is a new chat without one', () => expect(parseRoute('')).toEqual({view: 'chat', id: ''}));
  it('is a new chat for what it does not know', () => expect(parseRoute('#view=evil&id=x')).toEqual({view: 'chat', id: ''}));
  it('names a conversation', () => expect(parseRoute(`#view=chat&id=${ID}`)).toEqual({view: 'chat', id: ID}));
  it.each([{view: 'settings', id: ''}, {view: 'chat', id: ID}] as const)('is read as it was written', route => {
    expect(parseRoute(formatRoute(route))).toEqual(route);
  });
});

describe('a fragment that asks for something else', () => {
  it.each(['#invite=x', '#machine=x', '#login-error=x'])('leaves the view as it is: %s', fragment => {
    expect(namesNoView(fragment)).toBe(true);
  });
  it.each(['', '#view=settings', '#invite=x&view=settings'])('may name a view: %s', fragment => {
    expect(namesNoView(fragment)).toBe(false);
  });
});
