/** The models of one desktop. */
import {useSignal} from '@preact/signals';
import type {VNode} from 'preact';
import type {Desktop, LoadedModel, Model} from '../api/types';
import {t} from '../i18n/i18n';
import {IconButton} from '../ui/button';
import {formatBytes, formatNumber, formatRelativeTime, formatTime} from '../ui/format';
import {Section} from '../ui/view';
import {CopyDialog} from './copy-dialog';
import {DetailsDialog} from './details-dialog';
import {ModelMenu} from './model-menu';
import {modelsByDesktop, refreshModels} from './model-store';

interface DesktopModelsSectionProperties {
  readonly desktop: Desktop;
  /** In lower case; '' for all. */
  readonly filter: string;
}

export function DesktopModelsSection({desktop, filter}: DesktopModelsSectionProperties): VNode {
  const {id, name, ollama} = desktop;
  const known = modelsByDesktop.value.get(id);
  const shown = (known?.models ?? []).filter(model => model.name.toLowerCase().includes(filter));
  const remark = describeList(desktop, filter, known !== undefined, shown.length);
  return (
    <Section
      title={name}
      actions={ollama !== 'down' && <IconButton icon="retry" label={t('models.refresh')} onClick={() => void refreshModels(id)} />}
    >
      {remark && <p class="soft">{remark}</p>}
      {known?.error && <p class="error">{known.error}</p>}
      <ul class="cards">
        {shown.map(model => (
          <ModelCard key={model.name} desktop={desktop} model={model} loaded={known?.loaded.find(each => each.name === model.name)} />
        ))}
      </ul>
    </Section>
  );
}

function describeList({ollama}: Desktop, filter: string, isKnown: boolean, count: number): string {
  if (ollama === 'down') return t('models.ollamaDown');
  if (!isKnown) return t('models.loading');
  if (count === 0) return filter ? t('models.noMatch', {text: filter}) : t('models.none');
  return ollama === 'demo' ? t('models.demo') : '';
}

interface ModelCardProperties {
  readonly desktop: Desktop;
  readonly model: Model;
  readonly loaded: LoadedModel | undefined;
}

function ModelCard({desktop, model, loaded}: ModelCardProperties): VNode {
  const dialog = useSignal<'none' | 'details' | 'copy'>('none');
  const close = (): void => { dialog.value = 'none'; };
  const {name} = model;
  return (
    <li class="card model">
      <div class="card-title">
        <span class="card-name"><span>{name}</span>{loaded && <span class="tag">{t('models.inMemory')}</span>}</span>
        <span class="card-actions">
          <ModelMenu
            desktop={desktop}
            name={name}
            isLoaded={loaded !== undefined}
            onDetails={() => { dialog.value = 'details'; }}
            onCopy={() => { dialog.value = 'copy'; }}
          />
        </span>
      </div>
      <p class="soft model-facts">{describeModel(model, Date.now())}</p>
      {loaded && <p class="model-facts">{describeLoaded(loaded, Date.now())}</p>}
      {dialog.value === 'details' && <DetailsDialog desktop={desktop.id} model={name} onClose={close} />}
      {dialog.value === 'copy' && <CopyDialog desktop={desktop.id} model={name} onClose={close} />}
    </li>
  );
}

/** Returns the size and kind of a model; `now` is in epoch milliseconds. */
export function describeModel({name, size, details, remote_host: host, modified_at: modified}: Model, now: number): string {
  const remote = host || (/[:-]cloud$/i.test(name) ? 'ollama.com' : '');
  const changedAt = Date.parse(modified ?? '');
  return [
    remote ? t('models.remote', {host: remote}) : size > 0 ? formatBytes(size) : '',
    details?.parameter_size && details.parameter_size !== '0' ? details.parameter_size : '',
    details?.quantization_level && details.quantization_level !== 'none' ? details.quantization_level : '',
    details?.family ?? '',
    Number.isNaN(changedAt) ? '' : t('models.changed', {when: formatRelativeTime(changedAt, now)}),
  ].filter(Boolean).join(' · ');
}

/** Ollama gives a model that is kept for ever a time in some hundred years. */
const FOR_EVER_MS = 10 * 365 * 86_400_000;

/** Returns how much memory a model takes, and until when. */
export function describeLoaded({size, size_vram: onCard = 0, expires_at: expires, context_length: context}: LoadedModel, now: number): string {
  const share = formatNumber((onCard / size) * 100);
  const memory = onCard > 0 && size > 0 ? t('models.memoryGpu', {size: formatBytes(size), share: `${share} %`}) : t('models.memory', {size: formatBytes(size)});
  const until = Date.parse(expires);
  return [
    size > 0 ? memory : '',
    context ? t('models.context', {count: formatNumber(context)}) : '',
    Number.isNaN(until) ? '' : until - now > FOR_EVER_MS ? t('models.forever') : t('models.until', {when: formatTime(until)}),
  ].filter(Boolean).join(' · ');
}
