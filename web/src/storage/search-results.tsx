/** What the search has found: each hit leads to its message. */
import type {VNode} from 'preact';
import {formatRoute, navigate} from '../app/router';
import {plural, t} from '../i18n/i18n';
import {nextIndex} from '../ui/menu';
import {jump} from './jump';
import {search} from './search';
import type {Hit} from './search-index';
import {markHits} from './search-text';

export function SearchResults(): VNode {
  const {hits, isComplete, hasFailed, words} = search.value;
  return (
    <>
      <p class="soft hit-count" role="status">
        {hasFailed ? t('storage.searchFailed') : !isComplete ? t('storage.searching') : plural('storage.hits', hits?.length ?? 0)}
      </p>
      <ul class="hits" aria-label={t('storage.results')} onKeyDown={onKeyDown}>
        {hits?.map(hit => <HitRow key={`${hit.conversation} ${hit.message}`} hit={hit} words={words} />)}
      </ul>
    </>
  );
}

function HitRow({hit, words}: {readonly hit: Hit; readonly words: readonly string[]}): VNode {
  const {conversation, message, title, excerpt} = hit;
  return (
    <li class="hit">
      <a
        href={formatRoute({view: 'chat', id: conversation})}
        onClick={event => {
          if (event.ctrlKey || event.metaKey || event.shiftKey) return; // in another tab
          event.preventDefault();
          if (message) jump.value = {conversation, message, words};
          navigate('chat', conversation);
        }}
      >
        <strong dir="auto"><Marked text={title || t('storage.untitled')} words={words} /></strong>
        {excerpt && <span class="soft" dir="auto"><Marked text={excerpt} words={words} /></span>}
      </a>
    </li>
  );
}

function Marked({text, words}: {readonly text: string; readonly words: readonly string[]}): VNode {
  return <>{markHits(text, words).map(part => (part.isHit ? <mark>{part.text}</mark> : part.text))}</>;
}

function onKeyDown(event: KeyboardEvent): void {
  if (!(event.currentTarget instanceof HTMLElement)) return;
  const links = [...event.currentTarget.querySelectorAll('a')];
  const next = nextIndex(event.key, links.findIndex(each => each === document.activeElement), links.length);
  if (next === null || event.key === 'ArrowLeft' || event.key === 'ArrowRight') return;
  event.preventDefault();
  links[next]?.focus();
}
