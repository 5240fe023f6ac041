/** The pulls in progress, and those that have ended. */
import type {VNode} from 'preact';
import {t} from '../i18n/i18n';
import {Section} from '../ui/view';
import {PullRow} from './pull-row';
import {pulls} from './pull-store';

export function PullsSection(): VNode | null {
  if (pulls.value.length === 0) return null;
  return (
    <Section id="pulls" title={t('models.pulls')}>
      <ul class="cards">{pulls.value.map(pull => <PullRow key={pull.id} pull={pull} />)}</ul>
    </Section>
  );
}
