/** Says that there is a new version of the page. A reload loses nothing: drafts stay in the tab, and answers run on the desktop. */
import type {VNode} from 'preact';
import {t} from '../i18n/i18n';
import {isUpdateReady} from './page-update';

export function UpdateBanner(): VNode {
  return (
    <div role="status">
      {isUpdateReady.value && (
        <p id="update" class="update">{t('app.update')} <button type="button" onClick={() => location.reload()}>{t('app.reload')}</button></p>
      )}
    </div>
  );
}
