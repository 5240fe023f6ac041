/** Sending what a person has written: at once, or as soon as what is in the way is gone. */
import {useSignal} from '@preact/signals';
import {useLayoutEffect} from 'preact/hooks';
import {route} from '../app/router';
import {missing} from '../onboarding/missing';
import {chosen, currentAnswer, shown} from './chat-store';

/** Why a message cannot be sent now. */
export type Obstacle =
  | 'conversation' // it is being loaded
  | 'answer' // another answer is in progress
  | 'attachments' // they are being read
  | 'models' // it is not known yet which there are
  | 'modelAway' // the model of the conversation
  | 'noModel';

/** Those that are gone in a moment, without the person doing anything. */
const TEMPORARY: readonly Obstacle[] = ['conversation', 'attachments', 'models'];

/** Returns what is in the way of a message; null if nothing is. Reads signals. */
export function findObstacle(isReadingAttachments: boolean): Obstacle | null {
  const conversation = shown.value;
  if (conversation === undefined) return 'conversation';
  if (currentAnswer.value) return 'answer';
  if (isReadingAttachments) return 'attachments';
  if (chosen.value) return null;
  if (missing.value === 'unknown') return 'models';
  return conversation?.model.value ? 'modelAway' : 'noModel';
}

export interface Sending {
  /** Why what the person wants to send is not sent; null if nothing waits. */
  readonly held: Obstacle | null;
  /** The person wants it sent. */
  readonly request: () => void;
  /** The person changes the message. */
  readonly cancel: () => void;
}

/** Calls `send` when the person asks for it, or once what is in the way is gone, if that is temporary.
 *
 * It calls `send` before the next frame: the person cannot be in another conversation by then, where a request is void.
 */
export function useSending(obstacle: Obstacle | null, send: () => void): Sending {
  const held = useSignal<Obstacle | null>(null);
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
