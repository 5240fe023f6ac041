/** The settings of the person and of this browser. */
import type {VNode} from 'preact';
import {useEffect} from 'preact/hooks';
import {returnToChat} from '../app/router';
import {t, type TextKey} from '../i18n/i18n';
import {isLoggedIn} from '../session/session';
import {watchModels} from '../models/model-store';
import {isOnDesktop} from '../status/status-store';
import {IconButton} from '../ui/button';
import {View} from '../ui/view';
import {AccountSection} from './account-section';
import {createdKey} from './api-keys';
import {ConversationsSection} from './conversations-section';
import {GeneralSection} from './general-section';
import {KeysSection} from './keys-section';
import {MachinesSection} from './machines-section';
import {ProgramsSection} from './programs-section';
import './settings.css';

interface SectionLink {
  readonly id: string;
  readonly title: TextKey;
  readonly isShown: boolean;
}

export default function SettingsView(): VNode {
  useEffect(watchModels, []);
  useEffect(() => () => { createdKey.value = null; }, []);
  const hasMachines = isLoggedIn.value && !isOnDesktop.value;
  const links: readonly SectionLink[] = [
    {id: 'settings-account', title: 'settings.account', isShown: isLoggedIn.value},
    {id: 'settings-general', title: 'settings.general', isShown: true},
    {id: 'settings-conversations', title: 'settings.conversations', isShown: isLoggedIn.value},
    {id: 'settings-keys', title: 'settings.keys', isShown: isLoggedIn.value},
    {id: 'settings-programs', title: 'settings.programs', isShown: isLoggedIn.value},
    {id: 'settings-machines', title: 'settings.machinesShort', isShown: hasMachines},
  ];
  return (
    <View id="settings" title={t('settings.title')} actions={<IconButton icon="close" label={t('app.close')} onClick={returnToChat} />}>
      <nav class="section-links" aria-label={t('settings.sections')}>
        {links.filter(({isShown}) => isShown).map(({id, title}) => (
          <button key={id} type="button" class="plain" onClick={() => document.getElementById(id)?.scrollIntoView({behavior: 'smooth'})}>{t(title)}</button>
        ))}
      </nav>
      {isLoggedIn.value && <AccountSection />}
      <GeneralSection />
      {isLoggedIn.value && <><ConversationsSection /><KeysSection /><ProgramsSection /></>}
      {hasMachines && <MachinesSection />}
    </View>
  );
}
