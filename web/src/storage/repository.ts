/** The conversations of the person who is logged in: signals for the page, kept in this browser, the same in all tabs.
 *
 * A change shows at once. A new message, and one that has ended, is written at once; others a little later: at most
 * every WRITE_DELAY_MS while a message streams, and when the page is hidden. What cannot be written stays in memory, and the page says so.
 */
import {batch, computed, signal, type ReadonlySignal, type Signal} from '@preact/signals';
import {newConversation, summarize, type Conversation, type ConversationSummary, type Id, type InitialValues} from './conversation';
import {mergeConversations} from './merge';
import {asConversation, changeBetween, type Change, type ConversationStore, type Snapshot, type Written} from './store';
import {setValue} from './tree';

/** Where conversations are kept, or why that does not work. */
export type StorageState =
  | 'closed' // nobody is logged in
  | 'opening'
  | 'kept'
  | 'forbidden' // the browser has no database for this page; all is in memory
  | 'blocked' // another tab has an older page; all is in memory
  | 'lost' // the browser closed the database; what comes now is in memory
  | 'full' // there is no room; what could not be written is in memory
  | 'failing'; // the database reports errors

/** What tabs tell each other. */
export type TabMessage =
  | {readonly kind: 'written'; readonly id: Id; readonly messages: readonly Id[]; readonly summary: ConversationSummary}
  | {readonly kind: 'deleted'; readonly ids: readonly Id[]}
  | {readonly kind: 'restored'; readonly id: Id};

/** A channel to the other tabs of the same user. */
export interface TabChannel {
  send(message: TabMessage): void;
  close(): void;
}

export interface RepositoryOptions {
  /** Opens what keeps the conversations of a user; the state says whether that is the database. */
  readonly openStore: (userId: string, onLost: () => void) => Promise<{readonly store: ConversationStore; readonly state: StorageState}>;
  readonly openChannel: (userId: string, onMessage: (message: TabMessage) => void) => TabChannel;
  readonly now?: () => number;
  readonly writeDelay?: number;
  readonly retryDelay?: number;
  readonly undoDelay?: number;
}

interface Entry {
  readonly id: Id;
  readonly signal: Signal<Conversation | null | undefined>;
  /** What is stored, as far as this tab knows. */
  saved: Conversation | null;
  loaded: Promise<void>;
}

const WRITE_DELAY_MS = 500;
const RETRY_DELAY_MS = 30_000;
export const UNDO_DELAY_MS = 10_000;
const MAX_RECENT = 8;

export class ConversationRepository {
  readonly #summaries = signal<readonly ConversationSummary[]>([]);
  readonly #state = signal<StorageState>('closed');
  readonly #userId = signal('');
  /** Latest change first. */
  readonly summaries: ReadonlySignal<readonly ConversationSummary[]> = computed(() => this.#summaries.value);
  readonly state: ReadonlySignal<StorageState> = computed(() => this.#state.value);
  /** Whose conversations these are; '' if nobody is logged in. */
  readonly userId: ReadonlySignal<string> = computed(() => this.#userId.value);

  readonly #options: RepositoryOptions;
  readonly #now: () => number;
  /** Entries whose signal somebody holds; the recent, and those with changes, are held here. */
  #known = new Map<Id, WeakRef<Signal<Conversation | null | undefined>>>();
  readonly #entries = new WeakMap<Signal<Conversation | null | undefined>, Entry>();
  #recent: Entry[] = [];
  #dirty = new Set<Entry>();
  #opening: Promise<ConversationStore> = Promise.reject(new Error('Nobody is logged in.'));
  #channel: TabChannel | null = null;
  #generation = 0;
  #wanted = '';
  #switching: Promise<void> = Promise.resolve();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #undoTimers = new Map<Id, ReturnType<typeof setTimeout>>();
  #writing: Promise<void> = Promise.resolve();
  readonly #listeners = new Set<() => void>();
  readonly #purgeListeners = new Set<(ids: readonly Id[]) => void>();

  constructor(options: RepositoryOptions) {
    this.#options = options;
    this.#now = options.now ?? Date.now;
    this.#opening.catch(() => {});
  }

  /** Shows the conversations of a user, or none for ''. Resolves when the list is there. */
  switchUser(userId: string): Promise<void> {
    this.#wanted = userId;
    this.#switching = this.#switching.catch(() => {}).then(() => (this.#wanted === userId ? this.#enter(userId) : undefined));
    return this.#switching;
  }

  async #enter(userId: string): Promise<void> {
    if (userId === this.#userId.peek()) return;
    await this.#leave();
    if (!userId) return;
    const generation = this.#generation;
    this.#opening = this.#openStore(userId, generation);
    this.#state.value = 'opening';
    this.#channel = this.#options.openChannel(userId, message => {
      if (generation === this.#generation) void this.#receive(message);
    });
    this.#userId.value = userId; // last: what follows it opens a conversation at once
    const store = await this.#opening;
    const summaries = await store.loadSummaries();
    if (generation !== this.#generation) return;
    this.#list(summaries);
    await this.#purge();
  }

  /** Returns a signal of a conversation: undefined while it is loaded, null if there is none.
   *
   * Call it again rather than keep the signal of a conversation that is not shown.
   */
  open(id: Id): ReadonlySignal<Conversation | null | undefined> {
    return this.#entry(id).signal;
  }

  /** Adds a conversation. */
  create(initial: Partial<InitialValues> = {}): Conversation {
    return this.add(newConversation(this.#now(), initial));
  }

  /** Adds a conversation that was made elsewhere, such as a copy. */
  add(conversation: Conversation): Conversation {
    const entry = this.#newEntry(conversation.id, conversation, Promise.resolve());
    this.#changed(entry);
    return conversation;
  }

  /** Changes a conversation: at once if it is open, otherwise when it is loaded. Resolves to null if there is none. */
  async update(id: Id, change: (conversation: Conversation) => Conversation): Promise<Conversation | null> {
    const entry = this.#entry(id);
    if (entry.signal.peek() === undefined) await entry.loaded;
    const before = entry.signal.peek();
    if (!before) return null;
    const after = change(before);
    if (after === before) return before;
    entry.signal.value = after;
    this.#changed(entry);
    if (isNews(before, after)) void this.flush();
    return after;
  }

  async rename(id: Id, title: string): Promise<void> {
    await this.update(id, conversation => setValue(conversation, 'title', title.trim(), this.#now()));
  }

  /** Deletes conversations; `restore` undoes that until the undo time is over. */
  async delete(ids: readonly Id[]): Promise<void> {
    await this.#delete(ids, this.#now() + (this.#options.undoDelay ?? UNDO_DELAY_MS));
    this.#awaitUndo(ids);
  }

  /** Deletes conversations that somebody has deleted on another device. */
  async deleteNow(ids: readonly Id[]): Promise<void> {
    const generation = this.#generation;
    await this.#delete(ids, this.#now());
    await this.#purge(generation);
  }

  /** Undoes a deletion; returns whether that was possible still. */
  async restore(id: Id): Promise<boolean> {
    const generation = this.#generation;
    const store = await this.#opening;
    const summary = await store.restore(id);
    if (!summary || generation !== this.#generation) return false;
    this.#channel?.send({kind: 'restored', id});
    await this.#reload(id); // first: whoever sees it in the list may go on with its answers
    if (generation !== this.#generation) return false;
    this.#show(summary);
    this.#notify();
    return true;
  }

  /** Merges a copy from elsewhere, such as a desktop or a file. Returns null if the conversation was deleted here. */
  async mergeIn(conversation: Conversation): Promise<Written | null> {
    const store = await this.#flushed();
    return this.#write(store, changeBetween(null, conversation));
  }

  /** Loads a conversation as it is stored, after what was not written yet. */
  async snapshot(id: Id): Promise<Snapshot | null> {
    return (await this.#flushed()).load(id);
  }

  /** What keeps the conversations; for the synchronisation. */
  get store(): Promise<ConversationStore> {
    return this.#opening;
  }

  /** Calls a function after each change of what is stored; returns a function that ends that. */
  onStored(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Calls a function with the ids of all conversations whose deletion cannot be undone, whenever some may have been added;
   * returns a function that ends that. */
  onPurged(listener: (ids: readonly Id[]) => void): () => void {
    this.#purgeListeners.add(listener);
    return () => this.#purgeListeners.delete(listener);
  }

  /** Writes all changes. Never fails: `state` tells. */
  flush(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#writing = this.#writing.then(() => this.#writeDirty());
    return this.#writing;
  }

  async #openStore(userId: string, generation: number): Promise<ConversationStore> {
    const onLost = (): void => { if (generation === this.#generation) this.#state.value = 'lost'; };
    const {store, state} = await this.#options.openStore(userId, onLost);
    if (generation === this.#generation) this.#state.value = state;
    return store;
  }

  /** Forgets the user: first all that is shown, then what is to be written. */
  async #leave(): Promise<void> {
    if (!this.#userId.peek()) return;
    const opening = this.#opening;
    const written = this.flush();
    const channel = this.#channel;
    this.#generation += 1;
    const entries = [...this.#known.values()].map(each => each.deref());
    batch(() => {
      this.#userId.value = '';
      this.#state.value = 'closed';
      this.#summaries.value = [];
    });
    await written;
    for (const each of entries) if (each) each.value = null;
    channel?.close();
    this.#channel = null;
    for (const timer of this.#undoTimers.values()) clearTimeout(timer);
    this.#undoTimers.clear();
    this.#known.clear();
    this.#recent = [];
    this.#dirty.clear();
    clearTimeout(this.#timer);
    this.#opening = Promise.reject(new Error('Nobody is logged in.'));
    this.#opening.catch(() => {});
    (await opening.catch(() => null))?.close();
  }

  #entry(id: Id): Entry {
    const known = this.#known.get(id)?.deref();
    const entry = (known && this.#entries.get(known)) ?? this.#newEntry(id, undefined, null);
    this.#recent = [entry, ...this.#recent.filter(each => each !== entry)].slice(0, MAX_RECENT);
    return entry;
  }

  #newEntry(id: Id, value: Conversation | undefined, loaded: Promise<void> | null): Entry {
    const entry: Entry = {id, signal: signal<Conversation | null | undefined>(value), saved: null, loaded: loaded ?? Promise.resolve()};
    this.#entries.set(entry.signal, entry);
    this.#known.set(id, new WeakRef(entry.signal));
    this.#recent = [entry, ...this.#recent].slice(0, MAX_RECENT);
    if (!loaded) entry.loaded = this.#load(entry);
    return entry;
  }

  async #load(entry: Entry): Promise<void> {
    const generation = this.#generation;
    const snapshot = await this.#opening.then(store => store.load(entry.id)).catch((error: unknown) => this.#fail(error, generation));
    if (generation !== this.#generation) return;
    entry.saved = snapshot?.conversation ?? null;
    entry.signal.value = snapshot?.conversation ?? null;
  }

  /** Takes what another tab, or the synchronisation, has stored of a conversation that is open here. */
  async #reload(id: Id, messages?: readonly Id[]): Promise<void> {
    const known = this.#known.get(id)?.deref();
    const entry = known && this.#entries.get(known);
    if (!entry) return;
    await entry.loaded;
    const store = await this.#opening;
    const part = messages ? await store.loadPart(id, messages) : await store.load(id).then(found => found && changeBetween(null, found.conversation));
    if (!part) return;
    const stored = asConversation(part);
    entry.saved = entry.saved ? mergeConversations(entry.saved, stored) : stored;
    const current = entry.signal.peek();
    entry.signal.value = current ? mergeConversations(current, stored) : entry.saved;
  }

  #changed(entry: Entry): void {
    this.#dirty.add(entry);
    const conversation = entry.signal.peek();
    if (conversation) this.#showChange(conversation);
    this.#timer ??= setTimeout(() => void this.flush(), this.#options.writeDelay ?? WRITE_DELAY_MS);
  }

  /** Updates the list, unless only the text of a message has changed. */
  #showChange(conversation: Conversation): void {
    const summary = summarize(conversation);
    const shown = this.#summaries.peek().find(each => each.id === conversation.id);
    const isShown = shown && shown.title === summary.title && shown.messages === summary.messages && shown.running === summary.running;
    if (!isShown) this.#show(summary);
  }

  async #writeDirty(): Promise<void> {
    if (this.#dirty.size === 0) return;
    const generation = this.#generation;
    const entries = [...this.#dirty];
    this.#dirty.clear();
    const store = await this.#opening.catch(() => null);
    if (!store) return;
    for (const [index, entry] of entries.entries()) {
      const conversation = entry.signal.peek();
      if (!conversation) continue;
      try {
        const written = await this.#write(store, changeBetween(entry.saved, conversation), entry);
        if (written) entry.saved = conversation;
      } catch (error) {
        this.#fail(error);
        if (generation !== this.#generation) return;
        for (const each of entries.slice(index)) this.#dirty.add(each);
        this.#timer ??= setTimeout(() => void this.flush(), this.#options.retryDelay ?? RETRY_DELAY_MS);
        return;
      }
    }
    if (generation === this.#generation && (this.#state.peek() === 'full' || this.#state.peek() === 'failing')) this.#state.value = 'kept';
  }

  /** Writes a change, and tells the tabs. `writer` is the entry that has it already. */
  async #write(store: ConversationStore, change: Change, writer?: Entry): Promise<Written | null> {
    const generation = this.#generation;
    const {id} = change.head;
    const written = await store.write(change);
    if (generation !== this.#generation) return written;
    if (!written) {
      this.#hide([id]);
      return null;
    }
    if (written.changesBefore === written.summary.changes) return written;
    const messages = change.messages.map(message => message.id);
    this.#show(written.summary);
    this.#channel?.send({kind: 'written', id, messages, summary: written.summary});
    // What is stored may be further than what was written: another tab may have written, too.
    if (!writer) await this.#reload(id, messages);
    this.#notify();
    return written;
  }

  async #delete(ids: readonly Id[], undoUntil: number): Promise<void> {
    const store = await this.#flushed();
    this.#hide(ids);
    for (const id of ids) await store.delete({id, at: this.#now(), undoUntil, told: []});
    this.#channel?.send({kind: 'deleted', ids});
    this.#notify();
  }

  /** Removes the content when the time to undo is over. */
  #awaitUndo(ids: readonly Id[]): void {
    const [first] = ids;
    if (!first) return;
    clearTimeout(this.#undoTimers.get(first));
    const purge = async (): Promise<void> => {
      this.#undoTimers.delete(first);
      await this.#purge();
      this.#notify();
    };
    this.#undoTimers.set(first, setTimeout(() => void purge(), this.#options.undoDelay ?? UNDO_DELAY_MS));
  }

  /** Returns the store when all is written. Throws if another user came meanwhile: what is of one is not for the other. */
  async #flushed(): Promise<ConversationStore> {
    const generation = this.#generation;
    const opening = this.#opening;
    await this.flush();
    const store = await opening;
    if (generation !== this.#generation) throw new DOMException('Another user has logged in.', 'AbortError');
    return store;
  }

  async #purge(generation = this.#generation): Promise<void> {
    const ids = await this.#opening.then(store => store.purge(this.#now())).catch((error: unknown) => this.#fail(error, generation));
    if (!ids || generation !== this.#generation) return;
    for (const listener of [...this.#purgeListeners]) listener(ids);
  }

  async #receive(message: TabMessage): Promise<void> {
    const generation = this.#generation;
    await this.#apply(message).catch((error: unknown) => this.#fail(error, generation));
    this.#notify();
  }

  async #apply(message: TabMessage): Promise<void> {
    if (message.kind === 'deleted') {
      this.#hide(message.ids);
      this.#awaitUndo(message.ids); // the tab that deleted them may be closed by then
    } else if (message.kind === 'written') {
      this.#show(message.summary);
      await this.#reload(message.id, message.messages);
    } else {
      await this.#reload(message.id);
      await this.#listAgain();
    }
  }

  async #listAgain(): Promise<void> {
    const generation = this.#generation;
    const store = await this.#opening;
    const summaries = await store.loadSummaries();
    if (generation === this.#generation) this.#list(summaries);
  }

  /** Lists what is stored, and what is not stored yet. */
  #list(summaries: readonly ConversationSummary[]): void {
    const unwritten = [...this.#dirty].map(entry => entry.signal.peek()).filter(each => each !== null && each !== undefined).map(summarize);
    const ids = new Set(unwritten.map(each => each.id));
    this.#summaries.value = [...unwritten, ...summaries.filter(each => !ids.has(each.id))].sort(byTime);
  }

  #show(summary: ConversationSummary): void {
    if (!this.#userId.peek()) return; // written after the log-out
    const others = this.#summaries.peek().filter(each => each.id !== summary.id);
    const at = others.findIndex(each => byTime(summary, each) < 0);
    this.#summaries.value = others.toSpliced(at < 0 ? others.length : at, 0, summary);
  }

  #hide(ids: readonly Id[]): void {
    const gone = new Set(ids);
    batch(() => {
      this.#summaries.value = this.#summaries.peek().filter(each => !gone.has(each.id));
      for (const id of gone) {
        const known = this.#known.get(id)?.deref();
        const entry = known && this.#entries.get(known);
        if (!entry) continue;
        this.#dirty.delete(entry);
        entry.saved = null;
        entry.signal.value = null;
      }
    });
  }

  #notify(): void {
    for (const listener of [...this.#listeners]) listener();
  }

  /** Says what went wrong, unless it was for somebody who has logged out meanwhile. */
  #fail(error: unknown, generation = this.#generation): null {
    if (generation !== this.#generation) return null;
    const name = error instanceof Error || error instanceof DOMException ? error.name : '';
    if (this.#state.peek() !== 'closed' && this.#state.peek() !== 'lost') this.#state.value = name === 'QuotaExceededError' ? 'full' : 'failing';
    console.warn('A conversation cannot be stored in this browser.', name);
    return null;
  }
}

/** Whether a message was added or has ended: that is written at once. */
function isNews(before: Conversation, after: Conversation): boolean {
  return Object.values(after.messages).some(({id, state}) => {
    const known = before.messages[id];
    return !known || (state !== 'streaming' && known.state === 'streaming');
  });
}

function byTime(a: ConversationSummary, b: ConversationSummary): number {
  return b.updatedAt - a.updatedAt || (a.id < b.id ? -1 : 1);
}
