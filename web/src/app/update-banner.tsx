/** Says that there is a new version of the page. */
import type {VNode} from 'preact';
import {t} from '../i18n/i18n';
import {reloadWithDraft} from './draft';
import {isUpdateReady} from './page-update';

export function UpdateBanner(): VNode {
  return (
    <div role="status">
      {isUpdateReady.value && (
        <p id="update" class="update">{t('app.update')} <button type="button" onClick={reloadWithDraft}>{t('app.reload')}</button></p>
      )}
    </div>
  );
}
