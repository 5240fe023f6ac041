import {describe, expect, it} from 'vitest';
import {Answer} from './answer';
import {readStatistics, tokensPerSecond} from './statistics';

function answerWithFrames(values = {content: '', prefix: 0, createdAt: 0}): {answer: Answer; frames: (() => void)[]} {
  const frames: (() => void)[] = [];
  const answer = new Answer(values, work => {
    frames.push(work);
    return () => {};
  });
  return {answer, frames};
}

const say = (content: string, thinking = ''): Readonly<Record<string, unknown>> => ({message: {role: 'assistant', content, thinking}, done: false});

describe('an answer', () => {
  it('is shown once a frame, however many tokens arrive', () => {
    const {answer, frames} = answerWithFrames();
    let shown = 0;
    answer.content.subscribe(() => { shown += 1; });
    for (let index = 0; index < 1000; index += 1) answer.add(say('x'));
    expect([shown, frames.length, answer.content.value]).toEqual([1, 1, '']);
    frames[0]?.();
    expect([shown, answer.content.value]).toEqual([2, 'x'.repeat(1000)]);
    answer.add(say('y'));
    expect(frames).toHaveLength(2);
  });

  it('goes on behind what it continues', () => {
    const {answer} = answerWithFrames({content: 'It was a and more', prefix: 8, createdAt: 0});
    expect(answer.isEmpty).toBe(true);
    answer.add(say(' dog.'));
    answer.show();
    expect(answer.content.value).toBe('It was a dog.');
    expect(answer.texts.content.slice(0, 100)).toBe('It was a dog.');
  });

  it('has thoughts and calls of tools', () => {
    const {answer} = answerWithFrames();
    answer.add(say('', 'Hm. '));
    answer.add({message: {content: '', tool_calls: [{function: {name: 'weather', arguments: {city: 'Bonn'}}}, {function: 7}, 'x']}});
    expect([answer.texts.content.length, answer.texts.thinking.slice(0, 100)]).toEqual([0, 'Hm. ']);
    expect(answer.parts).toMatchObject({content: '', thinking: 'Hm. ', toolCalls: [{name: 'weather', arguments: {city: 'Bonn'}}]});
  });

  it.each([{}, {message: 'x'}, {message: {content: 7, thinking: {}, tool_calls: 'no'}}, {done: true, total_duration: 'x'}])('believes nothing that cannot be: %j', line => {
    const {answer} = answerWithFrames();
    answer.add(line);
    expect(answer.isEmpty).toBe(true);
    expect(answer.parts.statistics).toBeNull();
  });
});

describe('statistics', () => {
  it('are those of the last line', () => {
    const statistics = readStatistics({done: true, total_duration: 3e9, eval_count: 20, eval_duration: 2e9});
    expect(statistics && tokensPerSecond(statistics)).toBe(10);
  });
  it('have no speed without a time', () => {
    const statistics = readStatistics({done: true, total_duration: 3e9, eval_count: 20});
    expect(statistics && tokensPerSecond(statistics)).toBeNull();
  });
});
