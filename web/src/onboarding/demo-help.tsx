/** How to come from the demo model to a language model. */
import type {VNode} from 'preact';
import {t} from '../i18n/i18n';
import {bestDesktop} from '../status/status-store';
import {CommandsBySystem} from './command';
import {INSTALL_OLLAMA} from './system';

export default function DemoHelp(): VNode {
  return (
    <div class="stack">
      <p>{t('onboarding.demo.how', {name: bestDesktop.value?.name ?? ''})}</p>
      <CommandsBySystem commands={INSTALL_OLLAMA} />
    </div>
  );
}
