/** Lines that set up a program: its shell commands and files, with the address of this server in them. */
import {useSignal} from '@preact/signals';
import type {VNode} from 'preact';
import {t} from '../i18n/i18n';
import {bestDesktop, isOnDesktop} from '../status/status-store';
import {CodeBlock} from '../ui/code-block';
import {Section} from '../ui/view';
import {createdKey} from './api-keys';
import {CLIENTS, listSteps, PLACEHOLDER_KEY, type Client} from './snippet';

export function ProgramsSection(): VNode {
  const chosen = useSignal('curl');
  const model = useSignal('');
  const models = bestDesktop.value?.models ?? [];
  const client = CLIENTS.find(({name}) => name === chosen.value) ?? CLIENTS[0];
  return (
    <Section id="settings-programs" title={t('settings.programs')} explanation={t('settings.programsExplained')}>
      <div class="fields">
        <label class="field">
          <span>{t('settings.program')}</span>
          <select id="program" value={chosen.value} onChange={event => { chosen.value = event.currentTarget.value; }}>
            {CLIENTS.map(({name, title}) => <option key={name} value={name}>{title}</option>)}
          </select>
        </label>
        {models.length > 0 && (
          <label class="field">
            <span>{t('settings.model')}</span>
            <select id="program-model" value={model.value || models[0]} onChange={event => { model.value = event.currentTarget.value; }}>
              {models.map(name => <option key={name} value={name}>{name}</option>)}
            </select>
          </label>
        )}
      </div>
      {client && <Steps client={client} model={model.value || (models[0] ?? '')} />}
    </Section>
  );
}

/** The table is in English, whatever the language of the page. */
function Steps({client, model}: {readonly client: Client; readonly model: string}): VNode {
  const created = createdKey.value;
  const isLocal = isOnDesktop.value;
  const steps = listSteps(client, isLocal, {url: location.origin, key: created?.key ?? '', model});
  if (!isLocal && client.cloudUnsupported) return <p lang="en">{client.cloudUnsupported}</p>;
  if (steps.length === 0) return <p class="error">{t('settings.unsafeUrl')}</p>;
  return (
    <div class="steps" id="steps">
      <KeyNote isLocal={isLocal} client={client} name={created?.name ?? ''} />
      {steps.map(({text, file}, index) => {
        const heading = file ? t('settings.inFile', {file}) : t('settings.inShell');
        return (
          <div key={`${client.name}-${index}`}>
            <p class="step-heading">{heading}</p>
            <CodeBlock text={text} label={heading} />
          </div>
        );
      })}
      {client.note && <p class="soft" lang="en">{client.note}</p>}
      <p class="soft">{t('settings.verified', {how: client.verified})}</p>
    </div>
  );
}

function KeyNote({isLocal, client, name}: {readonly isLocal: boolean; readonly client: Client; readonly name: string}): VNode | null {
  if (isLocal) return <p>{t('settings.noKeyNeeded')}</p>;
  if (!client.needsKey) return null;
  return <p>{name ? t('settings.withKey', {name}) : t('settings.needsKey', {placeholder: PLACEHOLDER_KEY})}</p>;
}
