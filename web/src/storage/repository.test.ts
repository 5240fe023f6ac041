import 'fake-indexeddb/auto';
import {effect} from '@preact/signals';
import {IDBFactory} from 'fake-indexeddb';
import {afterEach, beforeEach, describe, expect, it, vi} from 'vitest';
import {until} from '../testing';
import type {Conversation} from './conversation';
import {openIndexedStore} from './indexed-store';
import {MemoryStore} from './memory-store';
import {ConversationRepository, type RepositoryOptions, type StorageState, type TabMessage} from './repository';
import type {Change, ConversationStore} from './store';
import {addMessage, pathToLeaf, updateMessage} from './tree';

const ALICE = 'alice';
const LONG = 3_600_000;
let tabs: Set<{readonly user: string; readonly onMessage: (message: TabMessage) => void}>;
let opened: ConversationRepository[];

type OpenStore = RepositoryOptions['openStore'];
const indexed: OpenStore = async (user, onLost) => ({store: await openIndexedStore(user, onLost), state: 'kept'});
const inStore = (store: ConversationStore, state: StorageState = 'kept'): OpenStore => async () => ({store, state});

/** Opens a tab of a user. */
async function openTab(user = ALICE, {openStore = indexed, ...options}: Partial<RepositoryOptions> = {}): Promise<ConversationRepository> {
  const repository = new ConversationRepository({
    openStore, writeDelay: LONG, undoDelay: LONG, retryDelay: LONG, ...options,
    openChannel: (channelUser, onMessage) => {
      const tab = {user: channelUser, onMessage};
      tabs.add(tab);
      const others = (): (typeof tab)[] => [...tabs].filter(each => each !== tab && each.user === channelUser);
      return {send: message => others().forEach(each => each.onMessage(structuredClone(message))), close: () => void tabs.delete(tab)};
    },
  });
  opened.push(repository);
  await repository.switchUser(user);
  return repository;
}

beforeEach(() => {
  tabs = new Set();
  opened = [];
  indexedDB = new IDBFactory();
  vi.spyOn(console, 'warn').mockImplementation(() => {});
});
afterEach(async () => {
  await Promise.all(opened.map(each => each.switchUser('')));
  vi.restoreAllMocks();
});

async function loaded(repository: ConversationRepository, id: string): Promise<Conversation | null> {
  return repository.update(id, conversation => conversation);
}

async function ask(repository: ConversationRepository, question: string): Promise<Conversation> {
  const {id} = repository.create();
  await repository.update(id, conversation => addMessage(conversation, {role: 'user', content: question}));
  const streaming = await repository.update(id, conversation => addMessage(conversation, {role: 'assistant', state: 'streaming'}));
  await repository.flush();
  if (!streaming) throw new Error('The conversation is gone.');
  return streaming;
}

const texts = (conversation: Conversation | null): readonly string[] => (conversation ? pathToLeaf(conversation).map(message => message.content) : []);

describe('the repository', () => {
  it('opens a conversation for who follows the user, as a page does that is loaded again', async () => {
    const before = await openTab();
    const {id} = await ask(before, 'Hello?');
    await before.switchUser('');
    const repository = await openTab('');
    const states: unknown[] = [];
    const stop = effect(() => { if (repository.userId.value) states.push(repository.open(id).value?.id); });
    await repository.switchUser(ALICE);
    await loaded(repository, id);
    stop();
    expect(states).toEqual([undefined, id]);
  });

  it('shows a change at once, and keeps it over a reload', async () => {
    const before = await openTab();
    const {id, leaf} = await ask(before, 'Hello?');
    await before.update(id, conversation => updateMessage(conversation, leaf.value ?? '', {content: 'Hel'}));
    expect(texts(before.open(id).value ?? null)).toEqual(['Hello?', 'Hel']);
    await before.switchUser('');
    const after = await openTab();
    expect(after.summaries.value).toMatchObject([{id, title: 'Hello?', messages: 2, running: 1}]);
    expect(texts(await loaded(after, id))).toEqual(['Hello?', 'Hel']);
  });

  it('keeps attachments', async () => {
    const before = await openTab();
    const {id} = before.create();
    const image = {kind: 'image', name: 'a.png', type: 'image/png', data: 'AAAA'} as const;
    await before.update(id, conversation => addMessage(conversation, {role: 'user', attachments: [image]}));
    await before.switchUser('');
    expect(pathToLeaf((await loaded(await openTab(), id)) as Conversation)[0]?.attachments).toEqual([image]);
  });

  it('writes only what has changed, and not for each token', async () => {
    const store = new MemoryStore();
    const writes: Change[] = [];
    const write = store.write.bind(store);
    store.write = change => {
      writes.push(change);
      return write(change);
    };
    const repository = await openTab(ALICE, {openStore: inStore(store)});
    const {id, leaf} = await ask(repository, 'Much?');
    writes.length = 0;
    for (let token = 1; token <= 100; token++) {
      await repository.update(id, conversation => updateMessage(conversation, leaf.value ?? '', {content: 'x'.repeat(token)}));
    }
    expect(writes).toEqual([]);
    await repository.update(id, conversation => updateMessage(conversation, leaf.value ?? '', {state: 'complete'}));
    await repository.flush();
    expect(writes.map(each => each.messages.map(message => message.content.length))).toEqual([[100]]);
    expect(repository.summaries.value[0]?.running).toBe(0);
  });

  it('shows no user the conversations of another', async () => {
    const repository = await openTab('alice');
    const {id} = await ask(repository, 'Secret?');
    const shown = repository.open(id);
    await repository.switchUser('bob');
    expect(shown.value).toBeNull();
    expect(repository.summaries.value).toEqual([]);
    expect(await loaded(repository, id)).toBeNull();
    await repository.switchUser('alice');
    expect(repository.summaries.value).toHaveLength(1);
  });

  it('shows the user who came last, however fast they change', async () => {
    const repository = await openTab('alice');
    await ask(repository, 'Mine?');
    await Promise.all([repository.switchUser('bob'), repository.switchUser('alice'), repository.switchUser('carol')]);
    expect([repository.userId.value, repository.summaries.value.length]).toEqual(['carol', 0]);
  });

  it('gives both tabs what either has written', async () => {
    const [one, two] = [await openTab(), await openTab()];
    const {id, leaf} = await ask(one, 'Two tabs?');
    await until(() => expect(two.summaries.value).toHaveLength(1));
    expect(await loaded(two, id)).not.toBeNull();
    const shownInTwo = two.open(id);
    await Promise.all([
      one.update(id, conversation => updateMessage(conversation, leaf.value ?? '', {content: 'Yes', state: 'complete'})),
      two.update(id, conversation => addMessage(conversation, {role: 'user', content: 'And I?'})),
    ]);
    await Promise.all([one.flush(), two.flush()]);
    await until(() => {
      expect(texts(shownInTwo.value ?? null)).toEqual(['Two tabs?', 'Yes', 'And I?']);
      expect(texts(one.open(id).value ?? null)).toEqual(['Two tabs?', 'Yes', 'And I?']);
    });
    expect(texts(await loaded(await openTab(), id))).toEqual(['Two tabs?', 'Yes', 'And I?']);
  });

  it('deletes in all tabs, and undoes it', async () => {
    const [one, two] = [await openTab(), await openTab()];
    const {id} = await ask(one, 'Delete me?');
    await loaded(two, id);
    await one.delete([id]);
    await until(() => expect(two.open(id).value).toBeNull());
    expect([one.summaries.value, two.summaries.value]).toEqual([[], []]);
    expect((await openTab()).summaries.value).toEqual([]);
    expect(await one.restore(id)).toBe(true);
    await until(() => expect(two.summaries.value).toHaveLength(1));
    expect(two.open(id).value).toMatchObject({id}); // it is there before it is listed
  });

  it('does not write a deleted conversation again', async () => {
    const [one, two] = [await openTab(), await openTab()];
    const {id} = await ask(one, 'Delete me?');
    await loaded(two, id);
    tabs.clear(); // the tabs do not hear each other
    await one.deleteNow([id]);
    await two.update(id, conversation => addMessage(conversation, {role: 'user', content: 'Still?'}));
    await two.flush();
    expect(two.open(id).value).toBeNull();
    expect((await openTab()).summaries.value).toEqual([]);
    expect(await one.restore(id)).toBe(false);
  });

  it('keeps in memory what does not fit, says so, and writes it later', async () => {
    const store = new MemoryStore();
    const write = store.write.bind(store);
    let isFull = true;
    store.write = change => (isFull ? Promise.reject(new DOMException('Full.', 'QuotaExceededError')) : write(change));
    const repository = await openTab(ALICE, {openStore: inStore(store)});
    const {id} = await ask(repository, 'Room?');
    expect(repository.state.value).toBe('full');
    expect(texts(repository.open(id).value ?? null)).toEqual(['Room?', '']);
    isFull = false;
    await repository.flush();
    expect(repository.state.value).toBe('kept');
    expect(await store.loadSummaries()).toHaveLength(1);
  });

  it('merges what tabs write that do not hear each other', async () => {
    const [one, two] = [await openTab(), await openTab()];
    const {id, leaf} = await ask(one, 'Who wins?');
    await loaded(two, id);
    tabs.clear();
    await one.update(id, conversation => updateMessage(conversation, leaf.value ?? '', {content: 'All of it', state: 'complete'}));
    await one.rename(id, 'Later');
    await one.flush();
    await two.update(id, conversation => updateMessage(conversation, leaf.value ?? '', {content: 'All'}));
    await two.flush();
    const stored = await loaded(await openTab(), id);
    expect([texts(stored), stored?.title.value]).toEqual([['Who wins?', 'All of it'], 'Later']);
  });

  it('removes the content of what was deleted, also if the tab that did it is closed', async () => {
    const [one, two] = [await openTab(), await openTab(ALICE, {undoDelay: 20})];
    const {id} = await ask(one, 'Gone?');
    tabs.forEach(each => each.onMessage({kind: 'deleted', ids: [id]}));
    await (await one.store).delete({id, at: 0, undoUntil: 0, told: []});
    await one.switchUser('');
    await until(async () => expect(await (await two.store).loadTexts([id])).toEqual([]));
  });

  it('says in all tabs what is deleted for good, and to who comes later', async () => {
    const purged: (readonly string[])[] = [[], [], []];
    const listen = (repository: ConversationRepository, tab: number): void => void repository.onPurged(ids => { purged[tab] = ids; });
    const [one, two] = [await openTab(), await openTab(ALICE, {undoDelay: 20})];
    [one, two].forEach(listen);
    const [kept, gone] = [await ask(one, 'Kept?'), await ask(one, 'Gone?')];
    await one.delete([kept.id]);
    expect(await one.restore(kept.id)).toBe(true);
    expect(purged).toEqual([[], [], []]);
    await one.deleteNow([gone.id]);
    await until(() => expect(purged.slice(0, 2)).toEqual([[gone.id], [gone.id]]));
    const three = new ConversationRepository({openStore: indexed, openChannel: () => ({send: () => {}, close: () => {}})});
    opened.push(three);
    listen(three, 2);
    await three.switchUser(ALICE);
    expect(purged[2]).toEqual([gone.id]);
    await three.switchUser('bob');
    expect(purged[2]).toEqual([]);
  });

  it('writes nothing of one user for another', async () => {
    const repository = await openTab('alice');
    const conversation = await ask(repository, 'Mine?');
    const merging = repository.mergeIn({...conversation, id: 'b'.repeat(32)}).catch((error: unknown) => error);
    await repository.switchUser('bob');
    await merging;
    expect([repository.summaries.value, await (await repository.store).loadSummaries()]).toEqual([[], []]);
  });
});

describe('a log-out in the middle', () => {
  const ended = (): Promise<void> => new Promise(resolve => setTimeout(resolve));

  /** Opens a repository that changes its user to `next` while `method` of the first one's store is awaited. */
  async function openLeaving(method: 'loadSummaries' | 'delete' | 'restore', next: string) {
    const mine = new MemoryStore();
    const repository = await openTab(ALICE, {openStore: async user => ({store: user === ALICE ? mine : new MemoryStore(), state: 'kept'})});
    const {id} = await ask(repository, 'Mine?');
    const original = mine[method].bind(mine) as (...values: never[]) => Promise<unknown>;
    const leave = async (...values: never[]): Promise<unknown> => {
      const result = await original(...values);
      await repository.switchUser(next);
      return result;
    };
    Object.assign(mine, {[method]: leave});
    return {repository, id};
  }

  it.each(['', 'bob'])('shows "%s" nothing of what another tab has restored, and says nothing', async next => {
    const {repository, id} = await openLeaving('loadSummaries', next);
    tabs.forEach(each => each.onMessage({kind: 'restored', id}));
    await ended();
    expect([repository.userId.value, repository.summaries.value]).toEqual([next, []]);
    expect(console.warn).not.toHaveBeenCalled();
  });

  it('ends a deletion in silence', async () => {
    const {repository, id} = await openLeaving('delete', '');
    await repository.deleteNow([id]);
    expect(console.warn).not.toHaveBeenCalled();
  });

  it('restores nothing for the next person', async () => {
    const {repository, id} = await openLeaving('restore', 'bob');
    await repository.delete([id]);
    expect(await repository.restore(id)).toBe(false);
    expect([repository.userId.value, repository.summaries.value]).toEqual(['bob', []]);
  });
});
