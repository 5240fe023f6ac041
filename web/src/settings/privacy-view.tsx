/** What is stored where, and who can read it: the short form of docs/security.md. */
import type {VNode} from 'preact';
import {t} from '../i18n/i18n';
import {isOnDesktop} from '../status/status-store';
import {Section, View} from '../ui/view';

const PLACES = ['browser', 'cloud', 'proxy', 'desktop'] as const;
const SUBJECTS = ['logs', 'answers', 'hosted', 'programs'] as const;
type Place = (typeof PLACES)[number];

export default function PrivacyView(): VNode {
  return (
    <View id="privacy" title={t('settings.privacy')}>
      <p>{t('settings.privacySummary')}</p>
      {isOnDesktop.value && <p>{t('settings.privacyLoopback')}</p>}
      {PLACES.map(place => <PlaceSection key={place} place={place} />)}
      {SUBJECTS.map(subject => (
        <Section key={subject} title={t(`settings.privacy.${subject}`)}><p>{t(`settings.privacy.${subject}.text`)}</p></Section>
      ))}
    </View>
  );
}

function PlaceSection({place}: {readonly place: Place}): VNode {
  return (
    <Section title={t(`settings.privacy.${place}`)}>
      <dl class="privacy">
        <dt>{t('settings.privacyKeeps')}</dt><dd>{t(`settings.privacy.${place}.keeps`)}</dd>
        <dt>{t('settings.privacyKeepsNot')}</dt><dd>{t(`settings.privacy.${place}.keepsNot`)}</dd>
        <dt>{t('settings.privacyReads')}</dt><dd>{t(`settings.privacy.${place}.reads`)}</dd>
      </dl>
    </Section>
  );
}
