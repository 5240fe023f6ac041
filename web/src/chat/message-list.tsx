/** The messages of a conversation: the last ones first, and earlier ones when they come into sight. */
import {useSignal} from '@preact/signals';
import type {VNode} from 'preact';
import {useEffect, useLayoutEffect, useRef} from 'preact/hooks';
import {t} from '../i18n/i18n';
import type {Conversation, Id, Message} from '../storage/conversation';
import {jump} from '../storage/jump';
import {pathToLeaf} from '../storage/tree';
import {IconButton} from '../ui/button';
import {withVersions, type ShownMessage} from './branches';
import {MessageView, type MessageProperties} from './message-view';
import type {ScrollFollower} from './scroll-follower';

/** So many messages are shown at first, and added at a time: few enough for a slow phone. */
const STEP = 10;
/** Earlier messages are added when they are so near to what is seen. */
const AHEAD = '1500px';
/** So many messages at the end are laid out wherever they are, and all that come after them. */
const RECENT = 4;

interface CachedView {
  readonly shown: ShownMessage;
  readonly isLast: boolean;
  readonly view: VNode;
}

interface MessageListProperties {
  readonly conversation: Conversation;
  readonly follower: ScrollFollower;
}

export function MessageList({conversation, follower}: MessageListProperties): VNode {
  const scroller = useRef<HTMLDivElement>(null);
  const content = useRef<HTMLDivElement>(null);
  const count = useSignal(STEP);
  const cache = useRef(new Map<Id, CachedView>());
  const messages = pathToLeaf(conversation);
  const early = useRef(messages.length - RECENT).current;
  useLayoutEffect(() => {
    if (!scroller.current || !content.current) return;
    const detach = follower.attach(scroller.current, content.current);
    follower.jump();
    return detach;
  }, []);
  // A message that the person has just sent is at the end.
  const last = messages.at(-1)?.id;
  useLayoutEffect(() => follower.follow(), [last]);
  useJump(conversation, messages, value => { count.value = Math.max(count.peek(), value); }, follower);
  const first = Math.max(0, messages.length - count.value);
  return (
    <div class="log-frame">
      <div class="log-scroller" ref={scroller} tabIndex={0} role="region" aria-label={t('chat.log')}>
        <div id="log" ref={content}>
          {first > 0 && <Earlier key={first} scroller={scroller.current} onShow={() => { count.value += STEP; }} />}
          {withVersions(conversation, messages.slice(first)).map((shown, index) => cachedView(cache.current, {
            conversation: conversation.id, shown, isLast: shown.message.id === last, isEarly: first + index < early,
          }))}
        </div>
      </div>
      {!follower.isAtEnd.value && (
        <IconButton id="jump-to-end" class="jump-to-end sheet" icon="down" label={t('chat.jumpToEnd')} onClick={() => follower.jump()} />
      )}
    </div>
  );
}

/** Returns the same view for the same message: then nothing of it is rendered again. */
function cachedView(cache: Map<Id, CachedView>, properties: MessageProperties): VNode {
  const {shown, isLast} = properties;
  const {id} = shown.message;
  const cached = cache.get(id);
  const isSame = cached && cached.isLast === isLast && cached.shown.message === shown.message
    && cached.shown.versions.join() === shown.versions.join();
  if (isSame) return cached.view;
  const view = <MessageView key={id} {...properties} />;
  cache.set(id, {shown, isLast, view});
  return view;
}

interface EarlierProperties {
  readonly scroller: HTMLElement | null;
  readonly onShow: () => void;
}

/** Stands for the messages that are not shown yet. */
function Earlier({scroller, onShow}: EarlierProperties): VNode {
  const button = useRef<HTMLButtonElement>(null);
  useEffect(() => {
    if (!button.current) return;
    let frame = 0;
    const observer = new IntersectionObserver(
      entries => { if (entries.some(entry => entry.isIntersecting)) frame = requestAnimationFrame(onShow); },
      {root: scroller ?? button.current.closest('.log-scroller'), rootMargin: `${AHEAD} 0px 0px 0px`},
    );
    observer.observe(button.current);
    return () => {
      cancelAnimationFrame(frame);
      observer.disconnect();
    };
  }, []);
  return <button ref={button} type="button" class="plain soft" onClick={onShow}>{t('chat.earlier')}</button>;
}

/** Goes to the message that a search has found. */
function useJump(conversation: Conversation, messages: readonly Message[], show: (count: number) => void, follower: ScrollFollower): void {
  const target = jump.value;
  useEffect(() => {
    if (target?.conversation !== conversation.id) return;
    const index = messages.findIndex(({id}) => id === target.message);
    if (index < 0) return;
    follower.leave();
    show(messages.length - index + STEP);
    const frame = requestAnimationFrame(() => requestAnimationFrame(() => {
      const element = document.getElementById(`message-${target.message}`);
      element?.scrollIntoView({block: 'center'});
      element?.classList.add('found');
      jump.value = null;
    }));
    return () => cancelAnimationFrame(frame);
  }, [target, conversation.id, messages.length]);
}
