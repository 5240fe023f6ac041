/** The path of this connection, the desktops and the proxy. */
import type {VNode} from 'preact';
import {isLoggedIn} from '../session/session';
import {t} from '../i18n/i18n';
import {Section, View} from '../ui/view';
import {DesktopCard} from './desktop-card';
import {PathView} from './path-view';
import {ProxySection} from './proxy-section';
import {bestDesktop, desktops, isOnDesktop} from './status-store';

export default function StatusView(): VNode {
  const list = desktops.value;
  return (
    <View id="status-view" title={t('status.title')}>
      <Section title={t('status.connection')}>
        <PathView />
        <p class="soft">{t(isOnDesktop.value ? 'status.latencyExplainedHere' : 'status.latencyExplained')}</p>
      </Section>
      {isLoggedIn.value && list && (
        <Section id="desktops" title={t('status.desktops')} explanation={t('status.desktopsExplained')}>
          {list.length === 0 && <p>{t('status.noDesktops')}</p>}
          <ul class="cards">
            {list.map(desktop => <DesktopCard key={desktop.id} desktop={desktop} isBest={list.length > 1 && desktop.id === bestDesktop.value?.id} />)}
          </ul>
        </Section>
      )}
      {isLoggedIn.value && !isOnDesktop.value && <ProxySection />}
    </View>
  );
}
