/** The dialog that gives a model a second name. */
import {useSignal} from '@preact/signals';
import type {VNode} from 'preact';
import {useId} from 'preact/hooks';
import {RequestError} from '../api/http';
import {t} from '../i18n/i18n';
import {Button} from '../ui/button';
import {Dialog} from '../ui/dialog';
import {showToast} from '../ui/toast';
import {copyModel} from './model-store';

interface CopyDialogProperties {
  /** The id of the desktop. */
  readonly desktop: string;
  readonly model: string;
  readonly onClose: () => void;
}

export function CopyDialog({desktop, model, onClose}: CopyDialogProperties): VNode {
  const formId = useId();
  const name = useSignal('');
  const error = useSignal('');
  const isBusy = useSignal(false);
  const copy = async (): Promise<void> => {
    isBusy.value = true;
    error.value = '';
    try {
      await copyModel(desktop, model, name.value.trim());
      showToast(t('models.copied', {name: name.value.trim()}));
      onClose();
    } catch (reason) {
      if (!(reason instanceof RequestError)) throw reason;
      error.value = reason.message;
    } finally {
      isBusy.value = false;
    }
  };
  return (
    <Dialog
      id="copy-model"
      title={t('models.copyTitle', {name: model})}
      onClose={onClose}
      footer={<>
        <button type="button" onClick={onClose}>{t('app.cancel')}</button>
        <Button kind="main" type="submit" form={formId} busy={isBusy.value}>{t('models.copyAction')}</Button>
      </>}
    >
      <form
        id={formId}
        class="form"
        onSubmit={event => {
          event.preventDefault();
          if (!isBusy.value) void copy();
        }}
      >
        <label class="field"><span>{t('models.copyName')}</span>
          <input required autofocus autocomplete="off" spellcheck={false} value={name.value} onInput={event => { name.value = event.currentTarget.value; }} />
        </label>
        <p class="soft">{t('models.copyExplained')}</p>
        {error.value && <p class="error" role="alert">{error.value}</p>}
      </form>
    </Dialog>
  );
}
