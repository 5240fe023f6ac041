import {describe, expect, it} from 'vitest';
import {nextIndex, placeMenu} from './menu';

describe('a menu', () => {
  const area = {width: 360, height: 640};
  const menu = {width: 200, height: 180};

  it('is below its button, and ends where the button ends', () => {
    expect(placeMenu({left: 260, right: 300, top: 20, bottom: 60}, menu, area)).toEqual({left: 100, top: 64});
  });
  it('begins where the button begins if text runs from right to left', () => {
    expect(placeMenu({left: 60, right: 100, top: 20, bottom: 60}, menu, area, true)).toEqual({left: 60, top: 64});
  });
  it('is above a button at the end of the window', () => {
    expect(placeMenu({left: 260, right: 300, top: 580, bottom: 620}, menu, area).top).toBe(396);
  });
  it('stays in the window', () => {
    expect(placeMenu({left: 0, right: 40, top: 20, bottom: 60}, menu, area).left).toBe(8);
    expect(placeMenu({left: 340, right: 380, top: 20, bottom: 60}, menu, area).left).toBe(152);
  });
});

describe('the keys in a list', () => {
  it.each([
    ['ArrowDown', 2, 0], ['ArrowUp', 0, 2], ['Home', 2, 0], ['End', 0, 2], ['ArrowRight', 0, 1], ['ArrowUp', -1, 1],
  ])('%s leads from %d to %d', (key, from, to) => expect(nextIndex(key, from, 3)).toBe(to));
  it('are ignored otherwise', () => {
    expect(nextIndex('a', 0, 3)).toBeNull();
    expect(nextIndex('End', -1, 0)).toBeNull();
  });
});
