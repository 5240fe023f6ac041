import {afterEach, beforeEach, expect, it, vi} from 'vitest';
import {navigate} from '../app/router';
import {acceptToken, forgetToken} from '../session/session';
import {forgetUnread, markRead, markUnread, unread, watchUnread} from './unread';

const [ONE, TWO] = ['1'.repeat(32), '2'.repeat(32)];
const KEY = 'ctllm.unread.alice';
const logIn = (id: string): void => acceptToken({user: {id, name: id}, token: 'T', expires_in: 600}, Date.now());
let stop = (): void => {};

beforeEach(() => {
  logIn('alice');
  navigate('chat');
  stop = watchUnread();
});
afterEach(() => {
  stop();
  forgetToken();
  localStorage.clear();
  vi.restoreAllMocks();
});

it('marks conversations until they are opened, also after a reload', () => {
  for (const id of [ONE, TWO, ONE]) markUnread(id);
  expect([...unread.value]).toEqual([ONE, TWO]);
  navigate('chat', TWO);
  expect([...unread.value]).toEqual([ONE]);
  stop();
  unread.value = new Set();
  stop = watchUnread();
  expect([...unread.value]).toEqual([ONE]);
  navigate('settings');
  expect([...unread.value]).toEqual([ONE]);
});

it('follows the other tabs, and marks as read for them what is open here', () => {
  localStorage.setItem(KEY, `${ONE} ${TWO} <b>`);
  dispatchEvent(new StorageEvent('storage', {key: 'ctllm.theme'}));
  expect([...unread.value]).toEqual([]);
  navigate('chat', ONE);
  dispatchEvent(new StorageEvent('storage', {key: KEY}));
  expect([[...unread.value], localStorage.getItem(KEY)]).toEqual([[TWO], TWO]);
});

it('is of one person', () => {
  markUnread(ONE);
  logIn('bob');
  expect([...unread.value]).toEqual([]);
  markUnread(TWO);
  forgetUnread('alice');
  expect([...unread.value]).toEqual([TWO]);
  logIn('alice');
  expect([...unread.value]).toEqual([]);
});

it('keeps the newest of very many, and nothing when all are read', () => {
  for (let number = 0; number <= 500; number += 1) markUnread(number.toString(16).padStart(32, '0'));
  expect([unread.value.size, unread.value.has('0'.repeat(32))]).toEqual([500, false]);
  markRead(unread.value);
  expect([unread.value.size, localStorage.getItem(KEY)]).toEqual([0, null]);
});
