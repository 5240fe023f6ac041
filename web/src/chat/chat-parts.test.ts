import {describe, expect, it} from 'vitest';
import type {Desktop} from '../api/types';
import {AttachmentError, fitInto, imageUrl, kindOf, readAttachment} from './attachments';
import {listOptions, resolveChoice} from './model-options';
import {parsePresets} from './presets';
import {isFollowing} from './scroll-follower';
import {asSpoken, endOfSentences} from './sentences';

describe('a list that is followed', () => {
  it.each([
    ['stays followed while it grows', true, 500, 500, 900, true],
    ['is left when somebody scrolls up', true, 500, 400, 300, false],
    ['is not followed again by growth', false, 400, 400, 900, false],
    ['is followed again at the end', false, 400, 900, 10, true],
  ] as const)('%s', (_, was, before, top, distance, expected) => expect(isFollowing(was, before, top, distance)).toBe(expected));
});

describe('what is announced', () => {
  it('are whole sentences', () => {
    expect(endOfSentences('One. Two! Thr', 0)).toBe(10);
    expect(endOfSentences('One. Two! Thr', 10)).toBe(10);
    expect(endOfSentences('One. Two! Three.\n', 10)).toBe(17);
    expect(endOfSentences('word '.repeat(100), 0)).toBe(500);
  });
  it('are words, not marks', () => {
    expect(asSpoken('# Title\n\n- **bold** and [a link](https://x.example)\n```js\ncode()\n```\nend')).toBe('Title bold and a link end');
  });
});

describe('an attachment', () => {
  it.each([
    ['image/png', 'a.png', 'image'], ['image/svg+xml', 'a.svg', null], ['text/x-python', 'a.py', 'text'], ['', 'a.rs', 'text'],
    ['', 'Makefile', 'text'], ['application/pdf', 'a.pdf', null], ['video/mp4', 'a.mp4', null], ['', 'a.exe', null],
  ] as const)('of type "%s" named %s is %s', (type, name, expected) => expect(kindOf({type, name})).toBe(expected));

  it('is at most 1536 pixels wide and high', () => {
    expect(fitInto({width: 4000, height: 3000}, 1536)).toEqual({width: 1536, height: 1152});
    expect(fitInto({width: 100, height: 50}, 1536)).toEqual({width: 100, height: 50});
    expect(fitInto({width: 100_000, height: 3}, 1536)).toEqual({width: 1536, height: 1});
  });

  it('is a text in UTF-8', async () => {
    expect(await readAttachment(new File(['grüße'], 'a.txt', {type: 'text/plain'}))).toMatchObject({kind: 'text', data: 'grüße'});
    for (const content of [new Uint8Array([255, 254, 65]), 'a\0b']) {
      await expect(readAttachment(new File([content], 'a.txt', {type: 'text/plain'}))).rejects.toMatchObject({refusal: 'notText', file: 'a.txt'});
    }
    await expect(readAttachment(new File(['x'.repeat(500_001)], 'a.txt', {type: 'text/plain'}))).rejects.toBeInstanceOf(AttachmentError);
  });

  it('is an image of at most 40 MB', async () => {
    const photo = new File([], 'image.jpg', {type: 'image/jpeg'});
    Object.defineProperty(photo, 'size', {value: 40_000_001});
    await expect(readAttachment(photo)).rejects.toMatchObject({refusal: 'imageTooLarge', file: 'image.jpg'});
  });

  it('is shown as an image only if it is one', () => {
    expect(imageUrl({kind: 'image', name: '', type: 'image/png', data: 'AA=='})).toBe('data:image/png;base64,AA==');
    expect(imageUrl({kind: 'image', name: '', type: 'text/html', data: 'AA=='})).toBe('');
    expect(imageUrl({kind: 'image', name: '', type: 'image/png', data: '"><script>'})).toBe('');
  });
});

const desktop = (id: string, models: readonly string[], ollama: Desktop['ollama'] = 'up'): Desktop => ({id, name: id, ollama, version: '1', models});

describe('the choice of a model', () => {
  const lists = listOptions(
    [desktop('a', ['x', 'y']), desktop('b', ['y', 'z']), desktop('c', ['demo:echo'], 'demo')],
    new Map([['a', {models: [{name: 'x', size: 5}, {name: 'y', size: 6, remote_host: 'https://ollama.com'}], loaded: [{name: 'x', size: 5, expires_at: ''}], error: ''}]]),
  );

  it('shows what is known of each model', () => {
    expect(lists.flatMap(({options}) => options)).toEqual([
      {desktop: 'a', model: 'x', size: 5, isLoaded: true, isDemo: false, isRemote: false},
      {desktop: 'a', model: 'y', size: 6, isLoaded: false, isDemo: false, isRemote: true},
      {desktop: 'b', model: 'y', size: 0, isLoaded: false, isDemo: false, isRemote: false},
      {desktop: 'b', model: 'z', size: 0, isLoaded: false, isDemo: false, isRemote: false},
      {desktop: 'c', model: 'demo:echo', size: 0, isLoaded: false, isDemo: true, isRemote: false},
    ]);
  });

  it.each([
    [{desktop: 'b', model: 'y'}, {desktop: 'b', model: 'y'}],
    [{desktop: 'away', model: 'y'}, {desktop: 'a', model: 'y'}],
    [{desktop: 'a', model: 'z'}, {desktop: 'b', model: 'z'}],
    [{desktop: 'a', model: 'away'}, null],
    [{desktop: '', model: ''}, {desktop: 'a', model: 'x'}],
  ])('of %j is %j', (wanted, expected) => expect(resolveChoice(lists, wanted, 'a')).toEqual(expected));
});

describe('stored presets', () => {
  it.each([null, '', '{', '7', '[{}]', '[{"name":7,"system":""}]', '[null]'])('that cannot be are left out: %s', stored => expect(parsePresets(stored)).toEqual([]));
  it('are read as they were written', () => {
    const preset = {name: 'Poet', system: 'Rhyme.', options: {temperature: 1}, think: 'low'};
    expect(parsePresets(JSON.stringify([preset]))).toEqual([preset]);
  });
});
