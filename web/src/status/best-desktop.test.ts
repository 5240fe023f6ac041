import {describe, expect, it} from 'vitest';
import type {Desktop} from '../api/types';
import {chooseBestDesktop} from './best-desktop';

const desktop = (id: string, ollama: Desktop['ollama']): Desktop => ({id, name: id, ollama, version: '1', models: []});

describe('the best desktop', () => {
  it('is the first whose Ollama runs', () => {
    expect(chooseBestDesktop([desktop('a', 'down'), desktop('b', 'demo'), desktop('c', 'up'), desktop('d', 'up')])?.id).toBe('c');
  });
  it('is one with the demo model rather than none', () => {
    expect(chooseBestDesktop([desktop('a', 'down'), desktop('b', 'demo')])?.id).toBe('b');
  });
  it('is one without Ollama if there is no other', () => expect(chooseBestDesktop([desktop('a', 'down')])?.id).toBe('a'));
  it('is none without desktops', () => expect(chooseBestDesktop([])).toBeNull());
});
