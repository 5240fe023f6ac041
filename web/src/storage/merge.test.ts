import {describe, expect, it} from 'vitest';
import {newConversation, newMessage, type Conversation, type Message, type MessageState} from './conversation';
import {areEqual, canonicalJson, mergeConversations, mergeCopies, mergeMessage, type Copy} from './merge';

/** A generator of numbers below `count` that gives the same ones for the same seed (mulberry32). */
function numbers(seed: number): (count: number) => number {
  let state = seed;
  return count => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) % count;
  };
}

const ID = '0'.repeat(32);
const STATES: readonly MessageState[] = ['streaming', 'complete', 'stopped', 'failed'];

/** Few values of each kind, so that copies agree, differ and tie often. */
function someMessage(next: (count: number) => number): Message {
  return newMessage({
    id: String(next(4)).repeat(32), role: 'assistant', content: 'abc'.slice(0, next(4)), error: next(2) ? 'x' : '',
    state: STATES[next(4)] ?? 'complete', updatedAt: next(3), createdAt: 1,
  }, 1);
}

function someCopy(next: (count: number) => number): Copy {
  if (next(12) === 0) return {id: ID, deleted: true};
  const messages = Object.fromEntries(Array.from({length: next(4)}, () => someMessage(next)).map(message => [message.id, message]));
  return {
    ...newConversation(next(3)), id: ID, messages,
    title: {value: 'ab'[next(2)] ?? '', at: next(2)}, options: {value: {temperature: next(2)}, at: next(2)}, think: {value: [true, 'low', null][next(3)] ?? null, at: next(2)},
  };
}

describe('merging', () => {
  it('is commutative, associative and idempotent', () => {
    for (let seed = 0; seed < 4000; seed++) {
      const next = numbers(seed);
      const [a, b, c] = [someCopy(next), someCopy(next), someCopy(next)];
      const json = (copy: Copy): string => canonicalJson(copy);
      expect(json(mergeCopies(a, b)), `seed ${seed}`).toBe(json(mergeCopies(b, a)));
      expect(json(mergeCopies(mergeCopies(a, b), c)), `seed ${seed}`).toBe(json(mergeCopies(a, mergeCopies(b, c))));
      expect(mergeCopies(a, a)).toBe(a);
      const merged = mergeCopies(a, b);
      expect(mergeCopies(merged, a)).toBe(merged);
    }
  });

  it('keeps every message of both', () => {
    for (let seed = 0; seed < 500; seed++) {
      const next = numbers(seed);
      const [a, b] = [someCopy(next), someCopy(next)];
      if ('deleted' in a || 'deleted' in b) continue;
      const all = new Set([...Object.keys(a.messages), ...Object.keys(b.messages)]);
      expect(new Set(Object.keys(mergeConversations(a, b).messages))).toEqual(all);
    }
  });

  const message = (values: Partial<Message>): Message => newMessage({id: ID, role: 'assistant', ...values}, 1);
  it.each([
    ['a message that has ended', {state: 'stopped', updatedAt: 1}, {state: 'streaming', updatedAt: 9, content: 'long'}],
    ['more of a message that streams', {state: 'streaming', updatedAt: 1, content: 'longer'}, {state: 'streaming', updatedAt: 9, content: 'long'}],
    ['the later change of a message that has ended', {updatedAt: 2, content: ''}, {updatedAt: 1, content: 'long'}],
    ['the longer of two at the same time', {updatedAt: 2, content: 'longer'}, {updatedAt: 2, content: 'long'}],
  ] as const)('prefers %s', (_, better, worse) => {
    const [winner, loser] = [message(better), message(worse)];
    expect(mergeMessage(winner, loser)).toBe(winner);
    expect(mergeMessage(loser, winner)).toBe(winner);
  });

  it('lets deletion win', () => {
    const conversation: Conversation = {...newConversation(1), id: ID};
    expect(mergeCopies(conversation, {id: ID, deleted: true})).toEqual({id: ID, deleted: true});
  });
});

describe('equality', () => {
  it('is of values, whatever their order', () => {
    const conversation = newConversation(1);
    expect(areEqual(conversation, {...conversation, options: {value: {}, at: 0}})).toBe(true);
    expect(canonicalJson({b: 1, a: [{d: 1, c: 2}]})).toBe('{"a":[{"c":2,"d":1}],"b":1}');
  });
});
