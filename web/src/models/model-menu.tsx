/** What can be done with a model. */
import type {VNode} from 'preact';
import {RequestError} from '../api/http';
import type {Desktop} from '../api/types';
import {t} from '../i18n/i18n';
import {askToConfirm} from '../ui/confirmation';
import {Menu} from '../ui/menu';
import {showToast} from '../ui/toast';
import {deleteModel, unloadModel} from './model-store';

interface ModelMenuProperties {
  readonly desktop: Desktop;
  readonly name: string;
  readonly isLoaded: boolean;
  readonly onDetails: () => void;
  readonly onCopy: () => void;
}

export function ModelMenu({desktop, name, isLoaded, onDetails, onCopy}: ModelMenuProperties): VNode {
  const unload = {label: t('models.unload'), icon: 'stop', onSelect: () => void act(unloadModel(desktop.id, name), t('models.unloaded', {name}))} as const;
  return (
    <Menu
      label={t('models.actions', {name})}
      items={[
        {label: t('models.details'), icon: 'info', onSelect: onDetails},
        ...(isLoaded ? [unload] : []),
        {label: t('models.copy'), icon: 'copy', onSelect: onCopy},
        {label: t('models.delete'), icon: 'delete', isDangerous: true, onSelect: () => void confirmDeletion(desktop, name)},
      ]}
    />
  );
}

async function confirmDeletion({id, name: desktop}: Desktop, name: string): Promise<void> {
  const question = {
    title: t('models.deleteTitle', {name}),
    text: t('models.deleteText', {desktop}),
    action: t('models.deleteAction'),
    isDangerous: true,
  };
  if (await askToConfirm(question)) await act(deleteModel(id, name), t('models.deleted', {name}));
}

/** Says how something ended. */
async function act(work: Promise<void>, success: string): Promise<void> {
  try {
    await work;
    showToast(success);
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    showToast(error.message, 'error');
  }
}
