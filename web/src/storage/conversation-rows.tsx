/** The rows of the list: only those in sight exist, however many conversations there are. */
import {useComputed, useSignal} from '@preact/signals';
import type {VNode} from 'preact';
import {useEffect, useLayoutEffect, useRef} from 'preact/hooks';
import {formatRoute, navigate, route} from '../app/router';
import {language, t} from '../i18n/i18n';
import {Menu} from '../ui/menu';
import {deleteConversation, exportConversations} from './actions';
import type {ConversationSummary, Id} from './conversation';
import {conversations} from './conversations';
import {layOutRows, rowsInSight, type Group} from './list-rows';
import {shownTitle} from './title';
import {unread} from './unread';

/** In rem; the style sheet has the same. */
const CONVERSATION_REM = 2.75;
const GROUP_REM = 2;

export function ConversationRows({summaries}: {readonly summaries: readonly ConversationSummary[]}): VNode {
  const scroller = useRef<HTMLDivElement>(null);
  const view = useSignal({top: 0, height: 1000, rem: 16});
  const focused = useSignal<Id | null>(null);
  const renamed = useSignal<Id | null>(null);
  const day = useSignal(Date.now());
  useLayoutEffect(() => {
    const element = scroller.current;
    if (!element) return;
    const measure = (): void => {
      view.value = {top: element.scrollTop, height: element.clientHeight, rem: Number.parseFloat(getComputedStyle(document.documentElement).fontSize) || 16};
    };
    measure();
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    return () => observer.disconnect();
  }, []);
  useEffect(() => { day.value = Date.now(); }, [summaries]);
  const {top, height: viewHeight, rem} = view.value;
  const {rows, height} = layOutRows(summaries, day.value, {group: GROUP_REM * rem, conversation: CONVERSATION_REM * rem});
  const focus = (index: number): void => {
    const row = rows.find(each => each.kind === 'conversation' && each.index === index);
    const element = scroller.current;
    if (row?.kind !== 'conversation' || !element) return;
    focused.value = row.summary.id;
    element.scrollTop = Math.max(Math.min(element.scrollTop, row.top - GROUP_REM * rem), row.top + CONVERSATION_REM * rem - element.clientHeight);
    requestAnimationFrame(() => element.querySelector<HTMLElement>(`[data-id="${row.summary.id}"] a`)?.focus());
  };
  const remove = (summary: ConversationSummary, index: number): void => {
    void deleteConversation(summary);
    focus(index + 1 < summaries.length ? index + 1 : index - 1);
  };
  const onKeyDown = (event: KeyboardEvent, summary: ConversationSummary, index: number): void => {
    const next = {ArrowDown: index + 1, ArrowUp: index - 1, Home: 0, End: summaries.length - 1}[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (next !== undefined) focus(next);
    else if (event.key === 'F2') renamed.value = summary.id;
    else if (event.key === 'Delete') remove(summary, index);
    else return;
    event.preventDefault();
  };
  return (
    <div class="rows" ref={scroller} onScroll={event => { view.value = {...view.peek(), top: event.currentTarget.scrollTop}; }}>
      <ul style={{height: `${height}px`}}>
        {rowsInSight(rows, top, viewHeight, focused.value).map(row => (row.kind === 'group' ? (
          <li class="group" key={`${row.group.name} ${row.top}`} style={{top: `${row.top}px`}}><h2>{nameOf(row.group)}</h2></li>
        ) : (
          <li
            key={row.summary.id}
            class="conversation"
            data-id={row.summary.id}
            style={{top: `${row.top}px`}}
            aria-setsize={summaries.length}
            aria-posinset={row.index + 1}
            onFocusIn={() => { focused.value = row.summary.id; }}
          >
            {renamed.value === row.summary.id
              ? <RenameForm summary={row.summary} onEnd={() => { renamed.value = null; focus(row.index); }} />
              : <ConversationRow summary={row.summary} onKeyDown={event => onKeyDown(event, row.summary, row.index)} onRename={() => { renamed.value = row.summary.id; }} onDelete={() => remove(row.summary, row.index)} />}
          </li>
        )))}
      </ul>
    </div>
  );
}

interface RowProperties {
  readonly summary: ConversationSummary;
  readonly onKeyDown: (event: KeyboardEvent) => void;
  readonly onRename: () => void;
  readonly onDelete: () => void;
}

function ConversationRow({summary, onKeyDown, onRename, onDelete}: RowProperties): VNode {
  const {id, running} = summary;
  const title = shownTitle(summary.title);
  const isShown = useComputed(() => route.value.view === 'chat' && route.value.id === id);
  const isUnread = useComputed(() => unread.value.has(id));
  return (
    <>
      <a
        href={formatRoute({view: 'chat', id})}
        aria-current={isShown.value ? 'page' : undefined}
        title={title}
        onKeyDown={onKeyDown}
        onClick={event => {
          if (event.ctrlKey || event.metaKey || event.shiftKey) return; // in another tab
          event.preventDefault();
          navigate('chat', id);
        }}
      >
        {running > 0 && <span class="running" role="img" aria-label={t('storage.running')} title={t('storage.running')} />}
        <span class="title" dir="auto">{title}</span>
        {isUnread.value && <span class="unread" role="img" aria-label={t('storage.unread')} title={t('storage.unread')} />}
      </a>
      <Menu
        label={t('storage.conversationMenu', {title})}
        items={[
          {label: t('storage.rename'), icon: 'edit', onSelect: onRename},
          {label: t('storage.exportJson'), icon: 'download', onSelect: () => void exportConversations([id], title, 'json')},
          {label: t('storage.exportMarkdown'), icon: 'download', onSelect: () => void exportConversations([id], title, 'markdown')},
          {label: t('storage.delete'), icon: 'delete', isDangerous: true, onSelect: onDelete},
        ]}
      />
    </>
  );
}

function RenameForm({summary, onEnd}: {readonly summary: ConversationSummary; readonly onEnd: () => void}): VNode {
  const input = useRef<HTMLInputElement>(null);
  const hasEnded = useRef(false);
  useLayoutEffect(() => input.current?.select(), []);
  const end = (isKept: boolean): void => {
    if (hasEnded.current) return;
    hasEnded.current = true;
    const title = input.current?.value.trim();
    if (isKept && title && title !== summary.title) void conversations.rename(summary.id, title);
    onEnd();
  };
  return (
    <form onSubmit={event => { event.preventDefault(); end(true); }}>
      <input
        ref={input}
        class="rename"
        aria-label={t('storage.newTitle')}
        dir="auto"
        maxLength={200}
        defaultValue={summary.title}
        autofocus
        onBlur={() => end(true)}
        onKeyDown={event => {
          if (event.key !== 'Escape') return;
          event.preventDefault();
          event.stopPropagation();
          end(false);
        }}
      />
    </form>
  );
}

function nameOf({name, month}: Group): string {
  if (name === 'earlier') return new Intl.DateTimeFormat(language.value, {month: 'long', year: 'numeric'}).format(month ?? 0);
  return t(`storage.group.${name}`);
}

