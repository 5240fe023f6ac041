import {afterEach, beforeEach, describe, expect, it, vi} from 'vitest';
import {RequestError} from '../api/http';
import type {Conversation} from './conversation';
import {canonicalJson} from './merge';
import {FakeDesktop, FakeDesktops, openDevice, someDesktop, type Device} from './testing';
import {addMessage, pathToLeaf, setValue, updateMessage} from './tree';

let desktop: FakeDesktop;
let devices: Device[];

async function open(decide = true): Promise<Device> {
  const device = await openDevice(desktop);
  devices.push(device);
  if (decide) await device.sync.choose('one', 'Desk one', 'on');
  return device;
}
beforeEach(() => {
  desktop = new FakeDesktop();
  devices = [];
  vi.spyOn(console, 'warn').mockImplementation(() => {});
});
afterEach(async () => {
  for (const {sync, repository} of devices) {
    sync.watch()();
    await repository.switchUser('');
  }
  vi.restoreAllMocks();
});

async function say({repository}: Device, id: string, content: string): Promise<void> {
  await repository.update(id, conversation => addMessage(conversation, {role: 'user', content}));
}
async function read({repository}: Device, id: string): Promise<Conversation | null> {
  return repository.update(id, conversation => conversation);
}
const words = (conversation: Conversation | null): readonly string[] => Object.values(conversation?.messages ?? {}).map(each => each.content).sort();
const stateOf = (device: Device): string | undefined => device.sync.desktops.value[0]?.state;

describe('two devices', () => {
  it('see the same', async () => {
    const [phone, laptop] = [await open(), await open()];
    const {id} = phone.repository.create({title: 'Shared'});
    await say(phone, id, 'from the phone');
    await phone.sync.syncNow();
    await laptop.sync.syncNow();
    expect(words(await read(laptop, id))).toEqual(['from the phone']);
    expect(laptop.repository.summaries.value).toMatchObject([{id, title: 'Shared', messages: 1}]);
    expect([stateOf(phone), stateOf(laptop)]).toEqual(['synchronised', 'synchronised']);
  });

  it('transfer nothing that has not changed', async () => {
    const [phone, laptop] = [await open(), await open()];
    const {id} = phone.repository.create();
    await say(phone, id, 'once');
    await phone.sync.syncNow();
    await laptop.sync.syncNow();
    desktop.requests.length = 0;
    await phone.sync.syncNow();
    await laptop.sync.syncNow();
    expect(desktop.requests).toEqual(['GET ?since=0', 'GET ?since=1']);
  });

  it('lose nothing when they write at the same time', async () => {
    const [phone, laptop] = [await open(), await open()];
    const {id} = phone.repository.create();
    await say(phone, id, 'first');
    await phone.sync.syncNow();
    await laptop.sync.syncNow();
    await read(laptop, id);
    await say(phone, id, 'from the phone');
    await say(laptop, id, 'from the laptop');
    // The laptop writes while the phone does: between its list and its write.
    let isFirst = true;
    desktop.before = async request => {
      if (!isFirst || !request.startsWith('PUT')) return;
      isFirst = false;
      await laptop.sync.syncNow();
    };
    await phone.sync.syncNow();
    await laptop.sync.syncNow();
    for (const device of [phone, laptop]) expect(words(await read(device, id))).toEqual(['first', 'from the laptop', 'from the phone']);
    expect(desktop.requests.filter(each => each.startsWith('PUT')).length).toBeGreaterThan(3);
  });

  it('agree after any changes in any order', async () => {
    const all = [await open(), await open(), await open()] as const;
    const {id} = all[0].repository.create();
    await say(all[0], id, 'begin');
    await all[0].sync.syncNow();
    for (const device of all) await device.sync.syncNow();
    const expected = new Set(['begin']);
    for (let round = 0; round < 25; round++) {
      const changes = all.map(async (device, index) => {
        if ((round * 7 + index * 3) % 4 === 0) return;
        const content = `${round}.${index}`;
        expected.add(content);
        await say(device, id, content);
        if (round % 3 === index) await device.repository.update(id, each => setValue(each, 'title', content));
        await device.sync.syncNow();
      });
      await Promise.all(changes);
    }
    for (let i = 0; i < 2; i++) for (const device of all) await device.sync.syncNow();
    const copies = await Promise.all(all.map(device => read(device, id)));
    expect(new Set(words(copies[0] ?? null))).toEqual(expected);
    expect(new Set(copies.map(copy => canonicalJson(copy))).size).toBe(1);
    expect(canonicalJson(JSON.parse(desktop.stored.get(id)?.document ?? ''))).toBe(canonicalJson(copies[0]));
  });

  it('keep what is written here while their copy arrives', async () => {
    const [phone, laptop] = [await open(), await open()];
    const {id} = phone.repository.create();
    await say(phone, id, 'first');
    await phone.sync.syncNow();
    await laptop.sync.syncNow();
    await say(phone, id, 'second');
    await phone.sync.syncNow();
    desktop.before = async request => {
      if (request !== `GET ${id}`) return;
      desktop.before = () => {};
      await say(laptop, id, 'meanwhile');
    };
    await laptop.sync.syncNow();
    await laptop.sync.syncNow();
    await phone.sync.syncNow();
    expect(words(await read(phone, id))).toEqual(['first', 'meanwhile', 'second']);
  });
});

describe('a deletion', () => {
  async function shared(): Promise<{phone: Device; laptop: Device; id: string}> {
    const [phone, laptop] = [await open(), await open()];
    const {id} = phone.repository.create();
    await say(phone, id, 'secret');
    await phone.sync.syncNow();
    await laptop.sync.syncNow();
    return {phone, laptop, id};
  }

  it('is everywhere', async () => {
    const {phone, laptop, id} = await shared();
    await phone.repository.deleteNow([id]);
    await phone.sync.syncNow();
    expect(desktop.stored.get(id)?.document).toBeNull();
    await laptop.sync.syncNow();
    expect([laptop.repository.summaries.value, await laptop.store.load(id)]).toEqual([[], null]);
    expect(await laptop.store.loadSummaries()).toEqual([]);
  });

  it('wins over a change of another device', async () => {
    const {phone, laptop, id} = await shared();
    await phone.repository.deleteNow([id]);
    await phone.sync.syncNow();
    await say(laptop, id, 'still here?');
    desktop.before = request => { if (request.startsWith('GET ?')) desktop.revision = 2; };
    await laptop.sync.syncNow();
    expect(await read(laptop, id)).toBeNull();
    expect(desktop.stored.get(id)?.document).toBeNull();
  });

  it('wins over a change that is on its way', async () => {
    const {phone, laptop, id} = await shared();
    await say(laptop, id, 'still here?');
    desktop.before = async request => {
      if (!request.startsWith('PUT')) return;
      desktop.before = () => {};
      await phone.repository.deleteNow([id]);
      await phone.sync.syncNow();
    };
    await laptop.sync.syncNow();
    expect([await read(laptop, id), desktop.stored.get(id)?.document]).toEqual([null, null]);
  });

  it('is not told while it can be undone', async () => {
    const {phone, id} = await shared();
    await phone.repository.delete([id]);
    await phone.sync.syncNow();
    expect(desktop.stored.get(id)?.document).not.toBeNull();
    await phone.repository.restore(id);
    await phone.sync.syncNow();
    expect(words(await read(phone, id))).toEqual(['secret']);
  });

  it('is told to a desktop that was away, also if it is not chosen any more', async () => {
    const [near, far] = [new FakeDesktop(), new FakeDesktop()];
    const reachable: Record<string, FakeDesktop> = {near, far};
    const phone = await openDevice(new FakeDesktops(reachable), ['near', 'far']);
    devices.push(phone);
    for (const id of ['near', 'far']) await phone.sync.choose(id, id, 'on');
    const {id} = phone.repository.create();
    await say(phone, id, 'secret');
    await phone.sync.syncNow();
    expect([near.stored.size, far.stored.size]).toEqual([1, 1]);
    await phone.sync.choose('far', 'far', 'off');
    phone.connected.value = [someDesktop('near')];
    await phone.repository.deleteNow([id]);
    await phone.sync.syncNow();
    expect(near.stored.get(id)?.document).toBeNull();
    expect(far.stored.get(id)?.document).not.toBeNull();
    phone.connected.value = [someDesktop('near'), someDesktop('far')];
    await phone.sync.syncNow();
    expect(far.stored.get(id)?.document).toBeNull();
  });
});

describe('the state', () => {
  it('is undecided, with what the desktop has, until the person decides; nothing is transferred', async () => {
    const phone = await open();
    const {id} = phone.repository.create();
    await say(phone, id, 'x');
    await phone.sync.syncNow();
    const laptop = await open(false);
    await laptop.sync.syncNow();
    expect(laptop.sync.desktops.value[0]).toMatchObject({state: 'undecided', found: 1});
    expect(laptop.repository.summaries.value).toEqual([]);
    await laptop.sync.choose('one', 'Desk', 'off');
    expect(stateOf(laptop)).toBe('off');
  });

  it.each([
    [new RequestError('The disk of the desktop is full.', 507), 'full', 'The disk of the desktop is full.'],
    [new RequestError('The desktop is offline.', 503, 5), 'failing', 'The desktop is offline.'],
    [new RequestError('Nothing is here.', 404), 'absent', ''],
  ] as const)('says what is wrong, and recovers: %s', async (error, state, problem) => {
    const phone = await open();
    const {id} = phone.repository.create();
    await say(phone, id, 'x');
    desktop.failure = error;
    await phone.sync.syncNow();
    expect(phone.sync.desktops.value[0]).toMatchObject({state, problem});
    desktop.failure = null;
    await phone.sync.syncNow();
    expect(stateOf(phone)).toBe('synchronised');
    expect(desktop.stored.has(id)).toBe(true);
  });

  it('is absent for a desktop without conversations, and away for one that is not connected', async () => {
    const phone = await open();
    phone.connected.value = [someDesktop('one', {resources: false})];
    expect(stateOf(phone)).toBe('absent');
    phone.connected.value = [];
    expect(stateOf(phone)).toBe('away');
  });
});

describe('a log-out', () => {
  /** Synchronises, but waits for the other tabs until `grant` is called. */
  async function openWaiting(): Promise<{device: Device; grant: () => void; stop: () => void}> {
    let grant = (): void => {};
    const granted = new Promise<void>(resolve => { grant = resolve; });
    const exclusively = async (_: string, work: () => Promise<void>): Promise<boolean> => {
      await granted;
      await work();
      return true;
    };
    const device = await openDevice(desktop, ['one'], {exclusively});
    devices.push(device);
    return {device, grant, stop: device.sync.watch()};
  }

  it('ends in silence what waits for another tab', async () => {
    const {device, grant, stop} = await openWaiting();
    const run = device.sync.syncNow();
    await device.repository.switchUser('');
    grant();
    await run;
    stop();
    expect(console.warn).not.toHaveBeenCalled();
    expect(desktop.requests).toEqual([]);
  });

  it('ends in silence a decision that is not stored yet, and the next person has made none', async () => {
    const {device, grant, stop} = await openWaiting();
    const save = device.store.saveDesktop.bind(device.store);
    device.store.saveDesktop = async decision => {
      await device.repository.switchUser('bob');
      await save(decision);
    };
    const decided = device.sync.choose('one', 'Desk one', 'on');
    grant();
    await decided;
    stop();
    expect(stateOf(device)).toBe('undecided');
  });

  it('shows the next person nothing that a desktop answers to this one', async () => {
    const {device, grant, stop} = await openWaiting();
    desktop.stored.set('c'.repeat(32), {revision: ++desktop.revision, document: '{}'});
    desktop.before = () => device.repository.switchUser('');
    grant();
    await device.sync.syncNow();
    stop();
    expect(device.sync.desktops.value[0]?.found).toBeNull();
  });
});

describe('a hostile or odd desktop', () => {
  it('does not break what is here', async () => {
    const phone = await open();
    const {id} = phone.repository.create();
    await say(phone, id, 'mine');
    await phone.sync.syncNow();
    const other = 'f'.repeat(32);
    desktop.stored.set(id, {revision: ++desktop.revision, document: '{"version": 1, "id": "../../etc", "messages": 7}'});
    desktop.stored.set(other, {revision: ++desktop.revision, document: JSON.stringify({version: 9, id: other})});
    desktop.stored.set('d'.repeat(32), {revision: ++desktop.revision, document: JSON.stringify({version: 1, id: 'c'.repeat(32), messages: {}})});
    await phone.sync.syncNow();
    expect(phone.sync.desktops.value[0]?.unreadable).toBeGreaterThan(0);
    expect(words(await read(phone, id))).toEqual(['mine']);
    expect(phone.repository.summaries.value).toHaveLength(1);
    expect(JSON.parse(desktop.stored.get(other)?.document ?? '')).toMatchObject({version: 9});
  });

  it('gets everything again if its folder was replaced', async () => {
    const phone = await open();
    const {id} = phone.repository.create();
    await say(phone, id, 'mine');
    await phone.sync.syncNow();
    desktop.stored.clear();
    desktop.revision = 0;
    await phone.sync.syncNow();
    expect(JSON.parse(desktop.stored.get(id)?.document ?? '{}')).toMatchObject({id});
  });

  it('gets again what it cannot read any more', async () => {
    const phone = await open();
    const {id} = phone.repository.create();
    await say(phone, id, 'mine');
    await phone.sync.syncNow();
    desktop.damaged.add(id).add('e'.repeat(32));
    await phone.sync.syncNow();
    expect([desktop.damaged.has(id), phone.sync.desktops.value[0]?.unreadable]).toEqual([false, 1]);
    expect(JSON.parse(desktop.stored.get(id)?.document ?? '{}')).toMatchObject({id});
  });

  it('gets the others, if one is too large', async () => {
    const phone = await open();
    const [large, small] = [phone.repository.create(), phone.repository.create()];
    await say(phone, large.id, 'x'.repeat(5000));
    await say(phone, small.id, 'x');
    desktop.maxSize = 3000;
    await phone.sync.syncNow();
    expect(phone.sync.desktops.value[0]).toMatchObject({state: 'synchronised', refused: 1});
    expect([...desktop.stored.keys()]).toEqual([small.id]);
  });

  it('gets an answer that streams once, and when it has ended', async () => {
    const phone = await open();
    const {id} = phone.repository.create();
    const started = await phone.repository.update(id, each => addMessage(each, {role: 'assistant', state: 'streaming'}));
    await phone.sync.syncNow();
    for (let token = 0; token < 5; token++) {
      await phone.repository.update(id, each => updateMessage(each, started?.leaf.value ?? '', {content: 'x'.repeat(token)}));
      await phone.sync.syncNow();
    }
    const puts = (): number => desktop.requests.filter(each => each.startsWith('PUT')).length;
    expect(puts()).toBe(1);
    await phone.repository.update(id, each => updateMessage(each, started?.leaf.value ?? '', {state: 'complete'}));
    await phone.sync.syncNow();
    expect(puts()).toBe(2);
    expect(pathToLeaf(JSON.parse(desktop.stored.get(id)?.document ?? '') as Conversation)[0]?.state).toBe('complete');
  });
});
