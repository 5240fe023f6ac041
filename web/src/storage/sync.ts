/** Keeps this browser's conversations the same as those of the desktops that the person chose. */
import {computed, effect, signal, untracked, type ReadonlySignal} from '@preact/signals';
import {RequestError} from '../api/http';
import type {Desktop} from '../api/types';
import type {ConversationRepository} from './repository';
import type {DesktopRecord, StoredSummary} from './store';
import type {SyncClient} from './sync-client';
import {runRound, type RoundResult} from './sync-round';

/** How the synchronisation with a desktop is. */
export type SyncState =
  | 'undecided' // the person has not said yet whether they want it
  | 'off'
  | 'away' // the desktop is not connected
  | 'waiting' // for the first round
  | 'running'
  | 'synchronised'
  | 'absent' // the desktop has no conversations: it is too old, or they are turned off there
  | 'full' // there is no room on the desktop
  | 'failing';

export interface DesktopSync {
  readonly id: string;
  readonly name: string;
  readonly state: SyncState;
  /** When it last succeeded; epoch milliseconds, 0 for never. */
  readonly at: number;
  /** What is wrong, as the server says it; '' if nothing is. */
  readonly problem: string;
  /** Conversations that are to be transferred in this round. */
  readonly left: number;
  /** How many conversations an undecided desktop has; null while that is not known. */
  readonly found: number | null;
  readonly unreadable: number;
  readonly refused: number;
}

export interface SyncOptions {
  readonly repository: ConversationRepository;
  readonly client: SyncClient;
  /** The connected desktops; null while they are not known. */
  readonly desktops: ReadonlySignal<readonly Desktop[] | null>;
  readonly now?: () => number;
  /** Runs work unless another tab does; returns whether it ran. */
  readonly exclusively?: (name: string, work: () => Promise<void>) => Promise<boolean>;
}

const DEBOUNCE_MS = 1_500;
const POLL_MS = 20_000;
/** Without a key or a click for so long, nothing is polled. */
const ACTIVE_MS = 600_000;
/** How often a conversation is sent while an answer streams into it. */
const STREAMING_MS = 20_000;
/** How soon it is tried again while another tab synchronises. */
const ELSEWHERE_MS = 3_000;
const MAX_BACKOFF_MS = 300_000;

type Progress = Omit<DesktopSync, 'id' | 'name'>;
const BEGINNING: Progress = {state: 'waiting', at: 0, problem: '', left: 0, found: null, unreadable: 0, refused: 0};

export class Synchronisation {
  readonly #options: SyncOptions;
  readonly #now: () => number;
  readonly #decisions = signal<readonly DesktopRecord[]>([]);
  readonly #progress = signal<ReadonlyMap<string, Progress>>(new Map());
  /** The desktops that are connected or chosen. */
  readonly desktops: ReadonlySignal<readonly DesktopSync[]> = computed(() => this.#describe());
  #aborter = new AbortController();
  #running: Promise<void> | null = null;
  #isStale = false;
  #failures = 0;
  #isElsewhere = false;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #dueAt = 0;
  #pushedAt = new Map<string, number>();
  #activeAt = 0;

  constructor(options: SyncOptions) {
    this.#options = options;
    this.#now = options.now ?? Date.now;
  }

  /** Turns the synchronisation with a desktop on or off. What is on the desktop stays there. */
  async choose(id: string, name: string, mode: 'on' | 'off'): Promise<void> {
    const {signal: aborted} = this.#aborter;
    const revision = this.#decisions.peek().find(each => each.id === id)?.revision ?? 0;
    const decisions = await this.#save({id, name, mode, revision}).catch((error: unknown) => {
      if (aborted.aborted) return [];
      throw error;
    });
    if (aborted.aborted) return;
    this.#decisions.value = decisions;
    this.#set(id, {...BEGINNING});
    await this.syncNow();
  }

  async #save(decision: DesktopRecord): Promise<readonly DesktopRecord[]> {
    const store = await this.#options.repository.store;
    await store.saveDesktop(decision);
    return store.loadDesktops();
  }

  /** Synchronises with all chosen desktops that are connected. Never fails: `desktops` tells. */
  syncNow(): Promise<void> {
    this.#cancelTimer();
    if (this.#running) {
      this.#isStale = true;
      return this.#running;
    }
    this.#running = this.#runExclusively().finally(() => {
      this.#running = null;
      const isStale = this.#isStale;
      this.#isStale = false;
      this.#schedule(isStale ? 0 : this.#nextDelay());
    });
    return this.#running;
  }

  /** Synchronises while the page is visible, until the returned function is called. */
  watch(): () => void {
    const {repository, desktops} = this.#options;
    const now = (): void => {
      this.#activeAt = this.#now();
      if (!document.hidden) this.#schedule(0);
    };
    const stay = (): void => { this.#activeAt = this.#now(); };
    const stopStored = repository.onStored(() => this.#schedule(this.#failures > 0 ? this.#nextDelay() : DEBOUNCE_MS));
    const stopUser = effect(() => {
      const userId = repository.userId.value;
      untracked(() => void this.#begin(userId));
    });
    const stopDesktops = effect(() => {
      if (desktops.value) untracked(() => this.#schedule(0));
    });
    document.addEventListener('visibilitychange', now);
    for (const type of ['focus', 'online'] as const) addEventListener(type, now);
    for (const type of ['pointerdown', 'keydown'] as const) addEventListener(type, stay, {passive: true});
    return () => {
      stopStored();
      stopUser();
      stopDesktops();
      this.#cancelTimer();
      this.#aborter.abort();
      document.removeEventListener('visibilitychange', now);
      for (const type of ['focus', 'online'] as const) removeEventListener(type, now);
      for (const type of ['pointerdown', 'keydown'] as const) removeEventListener(type, stay);
    };
  }

  async #begin(userId: string): Promise<void> {
    this.#aborter.abort();
    this.#aborter = new AbortController();
    this.#decisions.value = [];
    this.#progress.value = new Map();
    this.#pushedAt.clear();
    if (!userId) return;
    this.#activeAt = this.#now();
    this.#schedule(0);
  }

  /** Synchronises after `delay`, or earlier if that is due already. */
  #schedule(delay: number): void {
    const dueAt = this.#now() + delay;
    if (document.hidden || (this.#timer !== undefined && this.#dueAt <= dueAt)) return;
    clearTimeout(this.#timer);
    this.#dueAt = dueAt;
    this.#timer = setTimeout(() => void this.syncNow(), delay);
  }

  #cancelTimer(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #nextDelay(): number {
    if (this.#isElsewhere) return ELSEWHERE_MS;
    if (this.#failures > 0) return Math.min(POLL_MS * 2 ** (this.#failures - 1), MAX_BACKOFF_MS);
    return this.#now() - this.#activeAt > ACTIVE_MS ? MAX_BACKOFF_MS : POLL_MS;
  }

  async #runExclusively(): Promise<void> {
    const userId = this.#options.repository.userId.peek();
    if (!userId) return;
    // Of this user: after each wait, somebody else may have logged in.
    const {signal: aborted} = this.#aborter;
    try {
      const {exclusively} = this.#options;
      if (!exclusively) await this.#run(aborted);
      else this.#isElsewhere = !(await exclusively(`ctllm-sync-${userId}`, () => this.#run(aborted)));
    } catch (error) {
      if (!aborted.aborted) console.warn('The conversations cannot be synchronised.', error);
    }
  }

  async #run(aborted: AbortSignal): Promise<void> {
    if (aborted.aborted) return;
    const {repository, desktops} = this.#options;
    const store = await repository.store;
    const decisions = await store.loadDesktops();
    if (aborted.aborted) return;
    this.#decisions.value = decisions;
    let hasFailed = false;
    for (const desktop of desktops.peek() ?? []) {
      if (aborted.aborted) return;
      const decision = decisions.find(each => each.id === desktop.id);
      if (desktop.resources !== true) continue;
      const isDone = decision?.mode === 'on'
        ? await this.#synchronise({...decision, name: desktop.name}, aborted)
        : await this.#lookAt(desktop, decision, aborted);
      hasFailed ||= !isDone;
    }
    if (!aborted.aborted) this.#failures = hasFailed ? this.#failures + 1 : 0;
  }

  async #synchronise(desktop: DesktopRecord, aborted: AbortSignal): Promise<boolean> {
    const before = this.#progress.peek().get(desktop.id) ?? BEGINNING;
    if (before.state !== 'synchronised') this.#set(desktop.id, {...before, state: 'running'});
    try {
      const result: RoundResult = await runRound({
        repository: this.#options.repository,
        client: this.#options.client,
        desktop,
        signal: aborted,
        now: this.#now(),
        mayPush: summary => this.#mayPush(desktop.id, summary),
        onProgress: left => { if (left > 0 && !aborted.aborted) this.#set(desktop.id, {...before, state: 'running', left}); },
      });
      if (!aborted.aborted) this.#set(desktop.id, {...BEGINNING, ...result, state: 'synchronised', at: this.#now()});
      return true;
    } catch (error) {
      if (!aborted.aborted) this.#set(desktop.id, {...before, left: 0, ...describeFailure(error)});
      return false;
    }
  }

  /** Tells a desktop that is not chosen any more what was deleted, and counts what an undecided one has. */
  async #lookAt({id}: Desktop, decision: DesktopRecord | undefined, aborted: AbortSignal): Promise<boolean> {
    const {client} = this.#options;
    try {
      if (decision) await this.#tellDeletions(id, aborted);
      else if (typeof this.#progress.peek().get(id)?.found !== 'number') {
        const {conversations} = await client.list(id, 0, aborted);
        if (!aborted.aborted) this.#set(id, {...BEGINNING, state: 'undecided', found: conversations.filter(each => !each.deleted).length});
      }
      return true;
    } catch (error) {
      if (!aborted.aborted) this.#set(id, {...BEGINNING, ...describeFailure(error)});
      return false;
    }
  }

  async #tellDeletions(desktop: string, aborted: AbortSignal): Promise<void> {
    const store = await this.#options.repository.store;
    const had = new Set((await store.loadSyncRecords(desktop)).map(record => record.conversation));
    for (const {id, undoUntil, told} of await store.loadDeletions()) {
      if (!had.has(id) || told.includes(desktop) || undoUntil > this.#now()) continue;
      await this.#options.client.delete(desktop, id, aborted).catch((error: unknown) => {
        if (!(error instanceof RequestError) || (error.status !== 404 && error.status !== 410)) throw error;
      });
      await store.markTold(id, desktop);
    }
  }

  /** A conversation that streams is sent at its beginning, and then now and again. */
  #mayPush(desktop: string, {id, running, messages}: StoredSummary): boolean {
    const key = `${desktop} ${id} ${running > 0 ? messages : 0}`;
    const now = this.#now();
    if (running > 0 && now - (this.#pushedAt.get(key) ?? 0) < STREAMING_MS) return false;
    if (running > 0) this.#pushedAt.set(key, now);
    return true;
  }

  #set(id: string, progress: Progress): void {
    this.#progress.value = new Map(this.#progress.peek()).set(id, progress);
  }

  #describe(): readonly DesktopSync[] {
    const connected = this.#options.desktops.value ?? [];
    const chosen = this.#decisions.value.filter(each => !connected.some(({id}) => id === each.id));
    return [
      ...connected.map(desktop => this.#describeConnected(desktop)),
      ...chosen.map(({id, name, mode}) => ({...(this.#progress.value.get(id) ?? BEGINNING), id, name, state: mode === 'on' ? 'away' as const : 'off' as const, problem: ''})),
    ];
  }

  #describeConnected({id, name, resources}: Desktop): DesktopSync {
    const progress = this.#progress.value.get(id) ?? BEGINNING;
    const mode = this.#decisions.value.find(each => each.id === id)?.mode;
    if (resources !== true) return {...progress, id, name, state: 'absent'};
    if (progress.state === 'absent' || mode === 'on') return {...progress, id, name};
    return {...progress, id, name, state: mode === 'off' ? 'off' : 'undecided'};
  }
}

function describeFailure(error: unknown): Pick<DesktopSync, 'state' | 'problem'> {
  if (!(error instanceof RequestError)) {
    console.warn('The conversations cannot be synchronised.', error);
    return {state: 'failing', problem: ''};
  }
  if ([403, 404, 405].includes(error.status)) return {state: 'absent', problem: ''};
  return {state: error.status === 507 ? 'full' : 'failing', problem: error.message};
}
