/** The dialog that gives a model a second name. */
import {useSignal} from '@preact/signals';
import type {VNode} from 'preact';
import {t} from '../i18n/i18n';
import {FormDialog} from '../ui/form-dialog';
import {showToast} from '../ui/toast';
import {copyModel} from './model-store';

interface CopyDialogProperties {
  /** The id of the desktop. */
  readonly desktop: string;
  readonly model: string;
  readonly onClose: () => void;
}

export function CopyDialog({desktop, model, onClose}: CopyDialogProperties): VNode {
  const name = useSignal('');
  const copy = async (): Promise<string> => {
    const target = name.value.trim();
    await copyModel(desktop, model, target);
    showToast(t('models.copied', {name: target}));
    onClose();
    return '';
  };
  return (
    <FormDialog id="copy-model" title={t('models.copyTitle', {name: model})} action={t('models.copyAction')} submit={copy} onClose={onClose}>
      <label class="field"><span>{t('models.copyName')}</span>
        <input required autofocus autocomplete="off" spellcheck={false} value={name.value} onInput={event => { name.value = event.currentTarget.value; }} />
      </label>
      <p class="soft">{t('models.copyExplained')}</p>
    </FormDialog>
  );
}
