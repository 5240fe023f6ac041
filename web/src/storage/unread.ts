/** The conversations with an answer that ended while they were not shown: they are marked until they are opened, in all tabs. */
import {effect, signal, untracked} from '@preact/signals';
import {route} from '../app/router';
import {keyOf, readValue, removeValues, writeValue} from '../session/browser-values';
import {userId} from '../session/session';
import type {Id} from './conversation';
import {isId} from './parse';

const NAME = 'unread';
/** The oldest marks make room. */
const MAX_UNREAD = 500;

/** Of whoever is logged in. */
export const unread = signal<ReadonlySet<Id>>(new Set());

export function markUnread(id: Id): void {
  if (!unread.peek().has(id)) store([...unread.peek(), id].slice(-MAX_UNREAD));
}

export function markRead(ids: Iterable<Id>): void {
  const read = new Set(ids);
  const left = [...unread.peek()].filter(id => !read.has(id));
  if (left.length < unread.peek().size) store(left);
}

/** Forgets all marks of a person. */
export function forgetUnread(person: string): void {
  removeValues('browser', person, name => name === NAME);
  if (person === userId.peek()) unread.value = new Set();
}

/** Marks as read what is opened, and follows other tabs and the session. Returns what ends that. */
export function watchUnread(): () => void {
  const load = (): void => { unread.value = readStored(); };
  const followUser = effect(() => {
    void userId.value;
    untracked(load);
  });
  const followRoute = effect(() => {
    const {view, id} = route.value;
    if (view === 'chat' && unread.value.has(id)) untracked(() => markRead([id]));
  });
  const followTabs = ({key}: StorageEvent): void => { if (key === keyOf(NAME)) load(); };
  addEventListener('storage', followTabs);
  return () => {
    followUser();
    followRoute();
    removeEventListener('storage', followTabs);
  };
}

function store(ids: readonly Id[]): void {
  unread.value = new Set(ids);
  writeValue('browser', NAME, ids.join(' '));
}

function readStored(): ReadonlySet<Id> {
  return new Set((readValue('browser', NAME) ?? '').split(' ').filter(isId));
}
