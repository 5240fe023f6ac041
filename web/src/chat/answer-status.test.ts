import {describe, expect, it} from 'vitest';
import {Answer} from './answer';
import {describeInterruption, describeProgress, isSilent} from './answer-status';
import type {Phase} from './generation-state';

const MINUTE = 60_000;

function answerAfter(...phases: readonly (readonly [Phase, number])[]): Answer {
  const answer = new Answer({content: '', prefix: 0, createdAt: 0}, () => () => {});
  for (const [phase, at] of phases) answer.setPhase(phase, '', at);
  return answer;
}

describe('an answer that is interrupted', () => {
  it('is so through all attempts, until the desktop answers', () => {
    const answer = answerAfter(['reading', 0], ['waiting', 1], ['resuming', 2], ['checking', 3]);
    expect(answer.silentSince.value).toBe(1);
    expect(describeProgress(answer)).toBe('chat.reconnecting');
    answer.endSilence();
    expect(describeProgress(answer)).toBe('chat.waiting');
    expect(describeInterruption(answer, 10 * MINUTE)).toBe('');
  });

  it('is not after its end', () => expect(answerAfter(['waiting', 1], ['stopped', 2]).silentSince.value).toBeNull());

  it('is not before anything went wrong', () => expect(answerAfter(['resuming', 1]).silentSince.value).toBeNull());

  it('says after two minutes that the desktop does not answer', () => {
    const answer = answerAfter(['waiting', 0], ['resuming', 1]);
    expect(isSilent(answer, 2 * MINUTE - 1)).toBe(false);
    expect(describeInterruption(answer, 2 * MINUTE - 1)).toContain('The connection was interrupted.');
    expect(isSilent(answer, 2 * MINUTE)).toBe(true);
    expect(describeInterruption(answer, 3.9 * MINUTE)).toBe('The desktop has not answered for 3 min. The response continues if it comes back. What has arrived stays if you stop.');
  });

  it('says that a message is not sent', () => {
    const answer = answerAfter(['starting', 0], ['postponed', 0], ['starting', 1]);
    expect(describeInterruption(answer, 2)).toBe('Not sent yet. Trying again.');
    expect(describeInterruption(answer, 2 * MINUTE)).toBe('The desktop has not answered for 2 min. Your message will be sent as soon as it is back.');
  });

  it('says why, as far as that is known', () => {
    const answer = answerAfter();
    answer.setPhase('waiting', 'The proxy is busy.', 0);
    expect(describeInterruption(answer, 1)).toMatch(/The proxy is busy\.$/);
    expect(describeInterruption(answer, 5 * MINUTE)).toMatch(/The proxy is busy\.$/);
  });
});
