/** The question before a link logs somebody in: a page of another site may have opened the link. */
import {signal} from '@preact/signals';
import type {User} from '../api/types';

interface LoginQuestion {
  /** Who will be logged in. */
  readonly next: User;
  /** Who is. */
  readonly current: User | null;
  readonly answer: (isConfirmed: boolean) => void;
}

/** The question that is on the screen. */
export const loginQuestion = signal<LoginQuestion | null>(null);

/** Asks the person whether to log in. */
export function askToLogIn(next: User, current: User | null): Promise<boolean> {
  loginQuestion.value?.answer(false);
  return new Promise(resolve => {
    const answer = (isConfirmed: boolean): void => {
      loginQuestion.value = null;
      resolve(isConfirmed);
    };
    loginQuestion.value = {next, current, answer};
  });
}

/** Takes the question off the screen: nobody is logged in. */
export function leaveLoginQuestion(): void {
  loginQuestion.value?.answer(false);
}
