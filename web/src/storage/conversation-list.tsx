/** The list of conversations in the sidebar, and the search over them. */
import type {VNode} from 'preact';
import {navigate, route} from '../app/router';
import {plural, t} from '../i18n/i18n';
import {Icon} from '../ui/icon';
import {Menu} from '../ui/menu';
import {chooseFiles, deleteEverything, exportEverything, lastDeleted, undoDelete} from './actions';
import {conversations} from './conversations';
import './conversation-list.css';
import {ConversationRows} from './conversation-rows';
import {find, search} from './search';
import {SearchResults} from './search-results';
import {StorageProblem} from './storage-problem';
import {SyncStatus} from './sync-status';

export function ConversationList(): VNode {
  const summaries = conversations.summaries.value;
  const isEmpty = summaries.length === 0 && conversations.state.value !== 'opening';
  return (
    <section class="conversations" aria-label={t('storage.conversations')}>
      <div class="conversation-tools">
        <SearchBox />
        <Menu
          id="conversations-menu"
          label={t('storage.menu')}
          items={[
            {label: t('storage.import'), icon: 'upload', onSelect: chooseFiles},
            {label: t('storage.exportAllJson'), icon: 'download', disabled: isEmpty, onSelect: () => void exportEverything('json')},
            {label: t('storage.exportAllMarkdown'), icon: 'download', disabled: isEmpty, onSelect: () => void exportEverything('markdown')},
            {label: t('storage.deleteAll'), icon: 'delete', isDangerous: true, disabled: isEmpty, onSelect: () => void deleteEverything()},
          ]}
        />
      </div>
      <StorageProblem />
      {search.value.words.length > 0 ? <SearchResults /> : isEmpty ? <p class="soft empty">{t('storage.empty')}</p> : <ConversationRows summaries={summaries} />}
      <Undo />
      <SyncStatus />
    </section>
  );
}

function SearchBox(): VNode {
  return (
    <label class="search-box">
      <span class="visually-hidden">{t('storage.search')}</span>
      <Icon name="search" />
      <input
        id="search"
        type="search"
        placeholder={t('storage.search')}
        value={search.value.query}
        autocomplete="off"
        onInput={event => find(event.currentTarget.value)}
        onKeyDown={event => {
          if (event.key === 'Escape' && search.value.query) {
            event.preventDefault();
            event.stopPropagation();
            find('');
          } else if (event.key === 'ArrowDown') {
            const first = document.querySelector<HTMLElement>('.conversations :is(.hit, .conversation) a');
            if (first) event.preventDefault();
            first?.focus();
          }
        }}
      />
    </label>
  );
}

/** Is there always, so that screen readers announce what appears in it. */
function Undo(): VNode {
  const deleted = lastDeleted.value;
  return (
    <div class="undo" role="status">
      {deleted && <>
        <span dir="auto">{deleted.ids.length === 1 ? t('storage.deleted', {title: deleted.title}) : plural('storage.deletedCount', deleted.ids.length)}</span>
        <button type="button" id="undo-delete" onClick={() => {
          const [only] = deleted.ids;
          void undoDelete().then(() => { if (deleted.ids.length === 1 && only && route.peek().view === 'chat' && !route.peek().id) navigate('chat', only, {replace: true}); });
        }}>{t('storage.undo')}</button>
      </>}
    </div>
  );
}
