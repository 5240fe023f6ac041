/** A dialog with a form: a button that submits it, one that leaves, and what the server says against it. */
import {useSignal} from '@preact/signals';
import type {ComponentChildren, VNode} from 'preact';
import {useId} from 'preact/hooks';
import {RequestError} from '../api/http';
import {t} from '../i18n/i18n';
import {Button} from './button';
import {Dialog} from './dialog';

interface FormDialogProperties {
  readonly id: string;
  readonly title: string;
  /** What the button says that submits it: a verb. */
  readonly action: string;
  /** Does what the form asks for; returns what is wrong with it, or ''. A RequestError is shown. */
  readonly submit: (form: HTMLFormElement) => Promise<string>;
  readonly onClose: () => void;
  readonly closesOutside?: boolean;
  /** The fields. */
  readonly children: ComponentChildren;
}

export function FormDialog({action, submit, onClose, children, ...dialog}: FormDialogProperties): VNode {
  const formId = useId();
  const error = useSignal('');
  const isBusy = useSignal(false);
  const run = async (form: HTMLFormElement): Promise<void> => {
    isBusy.value = true;
    error.value = ''; // so that the same sentence is announced again
    try {
      error.value = await submit(form);
    } catch (reason) {
      if (!(reason instanceof RequestError)) throw reason;
      error.value = reason.message;
    } finally {
      isBusy.value = false;
    }
  };
  return (
    <Dialog
      {...dialog}
      onClose={onClose}
      footer={<>
        <button type="button" onClick={onClose}>{t('app.cancel')}</button>
        <Button kind="main" type="submit" form={formId} busy={isBusy.value}>{action}</Button>
      </>}
    >
      <form
        id={formId}
        class="form"
        onSubmit={event => {
          event.preventDefault();
          if (!isBusy.value) void run(event.currentTarget);
        }}
      >
        {children}
        {error.value && <p class="error" role="alert">{error.value}</p>}
      </form>
    </Dialog>
  );
}
