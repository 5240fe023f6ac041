/** The dialog with what Ollama says of a model. */
import {useSignal} from '@preact/signals';
import type {VNode} from 'preact';
import {plural, t} from '../i18n/i18n';
import {Dialog} from '../ui/dialog';
import {useLoad} from '../ui/use-load';
import {Facts} from '../ui/view';
import {readModelDetails, type ModelDetails} from './model-details';

interface DetailsDialogProperties {
  /** The id of the desktop. */
  readonly desktop: string;
  readonly model: string;
  readonly onClose: () => void;
}

export function DetailsDialog({desktop, model, onClose}: DetailsDialogProperties): VNode {
  const details = useSignal<ModelDetails | null>(null);
  const error = useLoad(async signal => { details.value = await readModelDetails(desktop, model, signal); }, [desktop, model]);
  return (
    <Dialog id="model-details" class="wide" title={model} onClose={onClose}>
      {error && <p class="error" role="alert">{error}</p>}
      {!error && !details.value && <p class="soft">{t('models.loading')}</p>}
      {details.value && <Details details={details.value} />}
    </Dialog>
  );
}

function Details({details}: {readonly details: ModelDetails}): VNode {
  const {contextLength, capabilities, template, system, parameters, license} = details;
  return (
    <>
      <Facts
        facts={[
          [t('models.family'), details.family],
          [t('models.parameters'), details.parameterSize],
          [t('models.quantization'), details.quantization],
          [t('models.contextLength'), contextLength === null ? '' : plural('models.tokens', contextLength)],
          [t('models.capabilities'), capabilities.join(', ')],
          [t('models.format'), details.format],
          [t('models.parent'), details.parent],
        ]}
      />
      <Folded title={t('models.system')} text={system} />
      <Folded title={t('models.defaults')} text={parameters} />
      <Folded title={t('models.template')} text={template} />
      <Folded title={t('models.license')} text={license} />
    </>
  );
}

function Folded({title, text}: {readonly title: string; readonly text: string}): VNode | null {
  if (!text) return null;
  return <details class="folded"><summary>{title}</summary><pre tabIndex={0} dir="auto">{text}</pre></details>;
}
