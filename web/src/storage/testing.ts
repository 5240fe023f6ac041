/** Help for tests: a desktop's store of conversations in memory, and devices that use it. */
import {signal} from '@preact/signals';
import {RequestError} from '../api/http';
import type {Desktop} from '../api/types';
import type {Conversation, Id} from './conversation';
import {MemoryStore} from './memory-store';
import {ConversationRepository} from './repository';
import {Synchronisation, type SyncOptions} from './sync';
import type {SyncClient} from './sync-client';

interface Stored {
  readonly revision: number;
  /** null: a tombstone. */
  readonly document: string | null;
}

/** Does what `/ctllm/desktop/conversations` of a desktop does. */
export class FakeDesktop implements SyncClient {
  readonly stored = new Map<Id, Stored>();
  readonly damaged = new Set<Id>();
  readonly requests: string[] = [];
  revision = 0;
  maxSize = Infinity;
  /** An error for all requests. */
  failure: RequestError | null = null;
  /** Runs before each request is answered. */
  before: (request: string) => Promise<void> | void = () => {};

  async list(_: string, since: number): ReturnType<SyncClient['list']> {
    await this.#begin(`GET ?since=${since}`);
    const conversations = [...this.stored].map(([id, {revision, document}]) => ({id, revision, size: document?.length ?? 0, deleted: document === null}));
    const changed = conversations.filter(each => each.revision > since || since > this.revision);
    return {revision: this.revision, conversations: changed.filter(each => !this.damaged.has(each.id)), damaged: [...this.damaged]};
  }

  async get(_: string, id: Id): ReturnType<SyncClient['get']> {
    await this.#begin(`GET ${id}`);
    if (this.damaged.has(id)) throw new RequestError('The file is damaged.', 500, 0, 'conversation_damaged');
    const {revision, document} = this.#present(id);
    return {revision, document: JSON.parse(document)};
  }

  async put(_: string, conversation: Conversation, revision: number): ReturnType<SyncClient['put']> {
    await this.#begin(`PUT ${conversation.id}`);
    if (JSON.stringify(conversation).length > this.maxSize) throw new RequestError('It is too large.', 413);
    this.damaged.delete(conversation.id);
    const found = this.stored.get(conversation.id);
    if (found?.document === null) throw new RequestError('It was deleted.', 410);
    if ((found?.revision ?? 0) !== revision) throw new RequestError('Another revision is stored.', 412);
    this.stored.set(conversation.id, {revision: ++this.revision, document: JSON.stringify(conversation)});
    return this.revision;
  }

  async delete(_: string, id: Id): ReturnType<SyncClient['delete']> {
    await this.#begin(`DELETE ${id}`);
    if (!this.stored.has(id)) throw new RequestError('There is none.', 404);
    this.stored.set(id, {revision: ++this.revision, document: null});
  }

  #present(id: Id): {readonly revision: number; readonly document: string} {
    const found = this.stored.get(id);
    if (!found) throw new RequestError('There is none.', 404);
    if (found.document === null) throw new RequestError('It was deleted.', 410);
    return {revision: found.revision, document: found.document};
  }

  async #begin(request: string): Promise<void> {
    this.requests.push(request);
    await this.before(request);
    if (this.failure) throw this.failure;
  }
}

/** Sends each request to the desktop that it names; the others are offline. */
export class FakeDesktops implements SyncClient {
  constructor(readonly desktops: Readonly<Record<string, FakeDesktop>>) {}
  list: SyncClient['list'] = (id, since) => this.#find(id).list(id, since);
  get: SyncClient['get'] = (id, conversation) => this.#find(id).get(id, conversation);
  put: SyncClient['put'] = (id, conversation, revision) => this.#find(id).put(id, conversation, revision);
  delete: SyncClient['delete'] = (id, conversation) => this.#find(id).delete(id, conversation);
  #find(id: string): FakeDesktop {
    const found = this.desktops[id];
    if (!found) throw new RequestError('The desktop is offline.', 503, 5, 'desktop_offline');
    return found;
  }
}

export interface Device {
  readonly repository: ConversationRepository;
  readonly sync: Synchronisation;
  readonly store: MemoryStore;
  readonly connected: {value: readonly Desktop[] | null};
}

export function someDesktop(id: string, values: Partial<Desktop> = {}): Desktop {
  return {id, name: `Desk ${id}`, ollama: 'up', version: '1', models: [], resources: true, ...values};
}

/** Opens the page on another device of the same user. */
export async function openDevice(client: SyncClient, ids: readonly string[] = ['one'], options: Pick<SyncOptions, 'exclusively'> = {}): Promise<Device> {
  const store = new MemoryStore();
  const repository = new ConversationRepository({
    openStore: async () => ({store, state: 'kept'}),
    openChannel: () => ({send: () => {}, close: () => {}}),
    writeDelay: 3_600_000, undoDelay: 3_600_000,
  });
  await repository.switchUser('alice');
  const connected = signal<readonly Desktop[] | null>(ids.map(id => someDesktop(id)));
  return {repository, store, connected, sync: new Synchronisation({repository, client, desktops: connected, ...options})};
}
