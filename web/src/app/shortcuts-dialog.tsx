/** The list of the keyboard shortcuts. */
import type {VNode} from 'preact';
import {t} from '../i18n/i18n';
import {Dialog} from '../ui/dialog';
import {SHORTCUTS, showsShortcuts} from './shortcuts';

export default function ShortcutsDialog(): VNode {
  return (
    <Dialog id="shortcuts" title={t('app.shortcuts')} onClose={() => { showsShortcuts.value = false; }}>
      <dl class="shortcuts">
        {SHORTCUTS.map(({keys, label}) => (
          <div key={label}>
            <dt>{keys.map(key => <kbd key={key}>{key}</kbd>)}</dt>
            <dd>{t(label)}</dd>
          </div>
        ))}
      </dl>
    </Dialog>
  );
}
