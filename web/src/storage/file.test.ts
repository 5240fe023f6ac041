import {describe, expect, it, vi} from 'vitest';
import {newConversation, type Conversation} from './conversation';
import {exportJson, exportMarkdown, fileName, toMarkdown} from './export';
import {importFile, parseFile} from './import';
import {parseConversation} from './parse';
import {openDevice, FakeDesktop} from './testing';
import {addMessage, editMessage, pathToLeaf} from './tree';

const NASTY = 'A\n# Title\n\n<!-- user x -->\n<!-- \\assistant -->\n## You\n```\n# code\n```';

function talk(): Conversation {
  let conversation = addMessage(newConversation(1000, {model: 'llama3.2', options: {temperature: 0.5}}), {role: 'user', content: 'Hello?', attachments: [{kind: 'image', name: 'a.png', type: 'image/png', data: 'AAAA'}]}, 1001);
  conversation = addMessage(conversation, {role: 'assistant', model: 'llama3.2:1b', content: NASTY, thinking: 'hm'}, 1002);
  return editMessage(conversation, conversation.leaf.value ?? '', {content: NASTY}, undefined, 1003);
}
const load = (...all: readonly Conversation[]) => async (id: string): Promise<Conversation | null> => all.find(each => each.id === id) ?? null;
const say = (conversation: Conversation): readonly string[] => pathToLeaf(conversation).map(({role, content}) => `${role}: ${content}`);
const parsed = (value: unknown): Conversation => {
  const conversation = parseConversation(value);
  if (typeof conversation === 'string') throw new Error(conversation);
  return conversation;
};

describe('a JSON file', () => {
  it('has all of it, and gives the same again', async () => {
    const [one, two] = [talk(), talk()];
    const text = await (await exportJson([one.id, two.id, 'gone'], load(one, two), 0)).text();
    expect(parseFile(text, 0)).toEqual({conversations: [one, two], rejected: 0});
  });

  it('is merged with what is here, and overwrites nothing', async () => {
    const {repository} = await openDevice(new FakeDesktop());
    const old = talk();
    await repository.mergeIn(addMessage(old, {role: 'user', content: 'newer'}, 2000));
    const file = await exportJson([old.id, talk().id], load(old), 0);
    expect(await importFile(file, repository)).toEqual({added: 0, merged: 1, rejected: 0});
    const kept = await repository.snapshot(old.id);
    expect(Object.keys(kept?.conversation.messages ?? {})).toHaveLength(4);
  });

  it('brings back what was deleted here, as another conversation', async () => {
    const {repository} = await openDevice(new FakeDesktop());
    const old = talk();
    await repository.mergeIn(old);
    await repository.deleteNow([old.id]);
    await importFile(await exportJson([old.id], load(old), 0), repository);
    expect(repository.summaries.value).toMatchObject([{messages: 3}]);
    expect(repository.summaries.value[0]?.id).not.toBe(old.id);
  });
});

it('puts what is left of a file into no conversations of somebody who logs in meanwhile', async () => {
  const {repository} = await openDevice(new FakeDesktop());
  const [one, two] = [talk(), talk()];
  const mergeIn = repository.mergeIn.bind(repository);
  const merged: string[] = [];
  repository.mergeIn = async conversation => {
    merged.push(conversation.id);
    const written = await mergeIn(conversation);
    await repository.switchUser('bob');
    return written;
  };
  const file = await exportJson([one.id, two.id], load(one, two), 0);
  await expect(importFile(file, repository)).rejects.toThrow('Another user has logged in.');
  expect(merged).toEqual([one.id]);
});

describe('a Markdown file', () => {
  it('has what is shown, and can be read again, whatever the texts are', async () => {
    const text = await (await exportMarkdown(['1', '2'], async () => talk())).text();
    const {conversations} = parseFile(text, 5000);
    expect(conversations.map(say)).toEqual([say(talk()).map(each => each.replace('user: Hello?', 'user: *a.png*\n\nHello?')), expect.anything()]);
    expect(conversations[0]?.title.value).toBe('Hello?');
  });
  it('names who wrote what', () => expect(toMarkdown(talk())).toContain('## llama3.2:1b'));
  it('without conversations gives none', () => expect(parseFile('# Shopping\n\n- milk', 0).conversations).toEqual([]));
});

describe('a hostile file', () => {
  const bad = (change: Record<string, unknown>): unknown => ({...talk(), ...change});
  const id = 'a'.repeat(32);
  const message = {...pathToLeaf(talk())[0], id, parent: null};

  it.each([
    ['no object', 7], ['no id', bad({id: '../x'})], ['messages that are a list', bad({messages: []})], ['no version', bad({version: '1'})],
  ])('is refused: %s', (_, value) => expect(parseConversation(value)).toBe('invalid'));

  it('of a newer page is not touched', () => expect(parseConversation(bad({version: 2}))).toBe('newer'));

  it.each([
    ['a key that is not its id', {['b'.repeat(32)]: message}],
    ['a role', {[id]: {...message, role: 'system'}}],
    ['a state', {[id]: {...message, state: 'evil'}}],
    ['the prototype', JSON.parse(`{"__proto__": ${JSON.stringify(message)}}`) as unknown],
  ])('loses messages with %s', (_, messages) => expect(parsed(bad({messages})).messages).toEqual({}));

  it('loses unknown members, wrong attachments, deep arguments and times that win for good', () => {
    const deep = JSON.parse('['.repeat(100) + ']'.repeat(100)) as unknown;
    const attachments = [
      {kind: 'image', name: 'x', type: 'image/svg+xml', data: 'AAAA'}, {kind: 'image', name: 'x', type: 'image/png', data: '" onerror='},
      {kind: 'text', name: 'ok', type: 'text/plain', data: '<script>'}, null,
    ];
    const conversation = parsed(bad({
      evil: 1, title: {value: 't'.repeat(5000), at: 1e300}, options: {value: {temperature: 1, __proto__x: {}, num_ctx: Infinity, 'a b': 1}, at: 1},
      messages: {[id]: {...message, evil: 1, attachments, updatedAt: 1e300, prefix: 1e9, toolCalls: [{name: 'f', arguments: deep}]}},
    }));
    expect(conversation).not.toHaveProperty('evil');
    expect([conversation.title.value.length, conversation.title.at < 1e13, conversation.options.value]).toEqual([1000, true, {temperature: 1}]);
    expect(conversation.messages[id]).toMatchObject({attachments: [{name: 'ok'}], prefix: 6, toolCalls: [{name: 'f', arguments: {}}]});
    expect(conversation.messages[id]).not.toHaveProperty('evil');
  });

  it.each(['{', '['.repeat(200_000), '{"a":'.repeat(100_000)])('that is no JSON says so', text => {
    expect(() => parseFile(text, 0)).toThrow('notReadable');
  });

  it('that is too large, not text, or empty says so', async () => {
    const {repository} = await openDevice(new FakeDesktop());
    const large = new Blob(['x']);
    vi.spyOn(large, 'size', 'get').mockReturnValue(1e9);
    await expect(importFile(large, repository)).rejects.toThrow('tooLarge');
    await expect(importFile(new Blob([new Uint8Array([0xff, 0xfe, 0x00])]), repository)).rejects.toThrow('notReadable');
    await expect(importFile(new Blob(['{}']), repository)).rejects.toThrow('nothingFound');
  });
});

describe('the name of a file', () => {
  it.each([
    ['a/b\\c:d*?"<>|', 'a b c d.md'], ['..', 'conversations.md'], ['x'.repeat(100), `${'x'.repeat(60)}.md`], ['\u202Egpj\u0000', 'gpj.md'], ['日本', '日本.md'],
  ])('of %j', (title, name) => expect(fileName(title, 'md')).toBe(name));
});
