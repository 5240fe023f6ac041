/** Sending what a person has written: at once, or as soon as what is in the way is gone. */
import {computed, useSignal} from '@preact/signals';
import {useLayoutEffect} from 'preact/hooks';
import {route} from '../app/router';
import {missing} from '../onboarding/missing';
import {chosen, currentAnswer, shown} from './chat-store';

/** Why no model can be asked now. */
export type AnswerObstacle =
  | 'answer' // another answer is in progress
  | 'models' // it is not known yet which there are
  | 'modelAway' // the model of the conversation
  | 'noModel';

/** Why a message cannot be sent now. */
export type Obstacle =
  | AnswerObstacle
  | 'conversation' // it is being loaded
  | 'attachments'; // they are being read

/** Those that are gone in a moment, without the person doing anything. */
const TEMPORARY: readonly Obstacle[] = ['conversation', 'attachments', 'models'];

/** Returns what is in the way of a message; null if nothing is. Reads signals. */
export function findObstacle(isReadingAttachments: boolean): Obstacle | null {
  if (shown.value === undefined) return 'conversation';
  if (currentAnswer.value) return 'answer';
  return isReadingAttachments ? 'attachments' : answerObstacle.value;
}

/** What is in the way of another answer of the conversation that is shown; null if nothing is. */
export const answerObstacle = computed<AnswerObstacle | null>(() => {
  if (currentAnswer.value) return 'answer';
  if (chosen.value) return null;
  if (missing.value === 'unknown') return 'models';
  return shown.value?.model.value ? 'modelAway' : 'noModel';
});

export interface Sending<Held extends Obstacle> {
  /** Why what the person wants to send is not sent; null if nothing waits. */
  readonly held: Held | null;
  /** The person wants it sent. */
  readonly request: () => void;
  /** The person changes the message. */
  readonly cancel: () => void;
}

/** Calls `send` when the person asks for it, or once what is in the way is gone, if that is temporary.
 *
 * It calls `send` before the next frame: the person cannot be in another conversation by then, where a request is void.
 */
export function useSending<Held extends Obstacle>(obstacle: Held | null, send: () => void): Sending<Held> {
  const held = useSignal<Held | null>(null);
  const cancel = (): void => { held.value = null; };
  // A conversation that turns out to be deleted is another one, too: the message would begin a new one.
  useLayoutEffect(cancel, [route.value.id, shown.value === null]);
  useLayoutEffect(() => {
    const before = held.peek();
    if (before === null) return;
    held.value = obstacle;
    if (obstacle === null && TEMPORARY.includes(before)) send();
  }, [obstacle]);
  return {
    held: held.value,
    request: () => {
      held.value = obstacle;
      if (obstacle === null) send();
    },
    cancel,
  };
}
