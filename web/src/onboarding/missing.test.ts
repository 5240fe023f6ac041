import {describe, expect, it} from 'vitest';
import type {Desktop, ProxyStatus} from '../api/types';
import {fillsTheScreen, findMissing, type Knowledge, type Missing} from './missing';

const DESKTOP: Desktop = {id: 'a', name: 'attic', ollama: 'up', version: '0.9', models: ['llama3.2'], resources: true};
const PROXY: ProxyStatus = {state: 'running', exchanges: 0};
const ALL: Knowledge = {isOnline: true, reachability: 'ok', isOnDesktop: false, proxy: PROXY, desktops: [DESKTOP], hasProblem: false};

const CASES: readonly (readonly [Missing, Partial<Knowledge>])[] = [
  ['nothing', {}],
  ['unknown', {reachability: 'unknown'}],
  ['network', {reachability: 'unreachable', isOnline: false, desktops: null}],
  ['server', {reachability: 'unreachable', desktops: null}],
  ['server', {reachability: 'failing', desktops: null}],
  ['server', {desktops: null, hasProblem: true}],
  ['unknown', {desktops: null}],
  ['unknown', {desktops: [], proxy: {...PROXY, state: 'starting'}}],
  ['unknown', {desktops: [], proxy: null}],
  ['desktop', {desktops: []}],
  ['version', {desktops: [{...DESKTOP, resources: false}]}],
  ['nothing', {desktops: [{...DESKTOP, resources: false}, DESKTOP]}],
  ['ollama', {desktops: [{...DESKTOP, ollama: 'down'}]}],
  ['nothing', {desktops: [{...DESKTOP, ollama: 'down'}, DESKTOP]}],
  ['demo', {desktops: [{...DESKTOP, ollama: 'demo', models: ['demo:echo']}]}],
  ['model', {desktops: [{...DESKTOP, models: []}]}],
  // A machine without a network still has its own desktop.
  ['nothing', {isOnDesktop: true, isOnline: false, proxy: null}],
  ['server', {isOnDesktop: true, isOnline: false, reachability: 'unreachable', desktops: null}],
];

describe('what is missing', () => {
  it.each(CASES)('is %s with %j', (missing, known) => expect(findMissing({...ALL, ...known})).toBe(missing));

  it('fills the screen, but for what a chat works with', () => {
    expect((['nothing', 'unknown', 'demo'] as const).filter(fillsTheScreen)).toEqual([]);
    expect((['network', 'server', 'desktop', 'version', 'ollama', 'model'] as const).every(fillsTheScreen)).toBe(true);
  });
});
