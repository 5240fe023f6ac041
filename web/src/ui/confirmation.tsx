/** Questions before something that cannot be undone. */
import {signal} from '@preact/signals';
import type {VNode} from 'preact';
import {t} from '../i18n/i18n';
import {Button} from './button';
import {Dialog} from './dialog';

interface Question {
  readonly title: string;
  /** What will happen. */
  readonly text: string;
  /** What the button says: a verb. */
  readonly action: string;
  /** Whether it cannot be undone; then "Cancel" has the focus. */
  readonly isDangerous?: boolean;
}

interface Asked extends Question {
  readonly answer: (isConfirmed: boolean) => void;
}

const asked = signal<Asked | null>(null);

/** Asks the person; returns whether they confirmed. A question that is open is declined. */
export function askToConfirm(question: Question): Promise<boolean> {
  asked.value?.answer(false);
  return new Promise(resolve => {
    const answer = (isConfirmed: boolean): void => {
      asked.value = null;
      resolve(isConfirmed);
    };
    asked.value = {...question, answer};
  });
}

/** Declines the question that is open, if there is one. */
export function declineQuestion(): void {
  asked.peek()?.answer(false);
}

/** Shows the question that was asked. The page has one of these. */
export function Confirmation(): VNode | null {
  const question = asked.value;
  if (!question) return null;
  const {title, text, action, isDangerous = false, answer} = question;
  return (
    <Dialog
      title={title}
      id="confirmation"
      onClose={() => answer(false)}
      footer={<>
        <button type="button" autofocus={isDangerous} onClick={() => answer(false)}>{t('app.cancel')}</button>
        <Button kind={isDangerous ? 'danger' : 'main'} onClick={() => answer(true)}>{action}</Button>
      </>}
    >
      <p>{text}</p>
    </Dialog>
  );
}
