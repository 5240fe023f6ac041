import {act} from 'preact/test-utils';
import {afterEach, beforeEach, describe, expect, it, vi} from 'vitest';
import {answerRequests, click, find, NEVER, press, settle, show, texts, until} from '../ui/testing';
import type {Desktop} from '../api/types';
import {navigate} from '../app/router';
import {isNarrow} from '../app/viewport';
import {t} from '../i18n/i18n';
import {acceptToken, forgetToken} from '../session/session';
import {desktops, proxy, reachability} from '../status/status-store';
import {conversations} from '../storage/conversations';
import type {Conversation} from '../storage/conversation';
import {MemoryStore} from '../storage/memory-store';
import {addMessage, pathToLeaf, updateMessage} from '../storage/tree';
import {unread} from '../storage/unread';
import {Toasts} from '../ui/toast';
import {answers, watchAnswers} from './chat-store';
import {Composer} from './composer';
import {attachmentDraft, readDraft, readEdit, setAttachments} from './drafts';
import {MessageView} from './message-view';

const ATTIC: Desktop = {id: 'd1', name: 'attic', ollama: 'up', version: '1', models: ['llama3.2'], resources: true};

beforeEach(async () => {
  vi.stubGlobal('CSS', {supports: () => true});
  vi.spyOn(console, 'warn').mockImplementation(() => {}); // jsdom has no database
  answerRequests({});
  acceptToken({user: {id: 'a', name: 'alice'}, token: 'T', expires_in: 600}, Date.now());
  await conversations.switchUser('a');
  reachability.value = 'ok';
  proxy.value = {state: 'running', exchanges: 0};
  desktops.value = [ATTIC];
});
afterEach(async () => {
  await show(null);
  setAttachments('', []);
  await conversations.switchUser('');
  forgetToken();
  navigate('chat');
  sessionStorage.clear();
  desktops.value = null;
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
});

const box = (): HTMLTextAreaElement => find<HTMLTextAreaElement>('textarea');
const questions = (): readonly string[] => conversations.summaries.peek().map(({title}) => title);

async function write(text: string): Promise<void> {
  await act(() => {
    box().value = text;
    box().dispatchEvent(new InputEvent('input', {bubbles: true}));
  });
}

async function showComposer(conversation = ''): Promise<void> {
  await show(<><Toasts /><Composer conversation={conversation} onSend={() => {}} /></>);
}

/** Sends a message from the form of a new conversation. */
async function send(text: string): Promise<void> {
  await write(text);
  await press(box(), 'Enter');
}

/** Attaches a text file; returns what gives its bytes. */
async function attachSlowly(): Promise<(bytes: Uint8Array<ArrayBuffer>) => void> {
  const file = new File([], 'notes.txt', {type: 'text/plain'});
  let finish = (_: ArrayBuffer): void => {};
  vi.spyOn(file, 'arrayBuffer').mockReturnValue(new Promise(resolve => { finish = resolve; }));
  const [input] = document.querySelectorAll<HTMLInputElement>('input[type=file]');
  Object.defineProperty(input, 'files', {value: [file]});
  await act(() => void input?.dispatchEvent(new Event('change', {bubbles: true})));
  return ({buffer}) => finish(buffer);
}

/** Shows a conversation whose last message is an answer in this state. */
async function showAnswer(state: 'streaming' | 'complete'): Promise<Conversation> {
  const empty = conversations.create({model: 'llama3.2', desktop: 'd1'});
  const added = await conversations.update(empty.id, current => addMessage(addMessage(current, {role: 'user', content: 'Before'}), {role: 'assistant', state}));
  navigate('chat', empty.id);
  return added ?? empty;
}

it('sends a message at once if a model can answer', async () => {
  await showComposer();
  await send('Hello');
  await until(() => expect(questions()).toEqual(['Hello']));
  expect([box().value, readDraft('')]).toEqual(['', '']);
});

it('sends a message that came before the models when they are known', async () => {
  desktops.value = null;
  await showComposer();
  await send('Hello');
  expect(box().value).toBe('Hello');
  expect(texts('.send-notice')).toEqual([t('chat.held.models')]);
  await act(() => { desktops.value = [ATTIC]; });
  await until(() => expect(questions()).toEqual(['Hello']));
  expect(texts('.send-notice')).toEqual([]);
  expect(box().value).toBe('');
});

it('waits for another press once the person goes on writing', async () => {
  desktops.value = null;
  await showComposer();
  await send('Hello');
  await write('Hello you');
  expect(texts('.send-notice')).toEqual([]);
  await act(() => { desktops.value = [ATTIC]; });
  await settle();
  expect(questions()).toEqual([]);
  expect(box().value).toBe('Hello you');
});

it('sends nothing of a conversation that the person has left', async () => {
  const {id} = await showAnswer('complete');
  desktops.value = null;
  await showComposer(id);
  await send('Hello');
  await act(() => navigate('chat'));
  await showComposer();
  expect(texts('.send-notice')).toEqual([]);
  await act(() => { desktops.value = [ATTIC]; });
  await settle();
  expect([box().value, readDraft(id)]).toEqual(['', 'Hello']);
  expect(questions()).toEqual(['Before']);
});

it('says that there is no model, and sends nothing when one comes later', async () => {
  desktops.value = [];
  await showComposer();
  await send('Hello');
  expect(texts('.send-notice')).toEqual([t('chat.held.noModel')]);
  await act(() => { desktops.value = [ATTIC]; });
  await settle();
  expect(texts('.send-notice')).toEqual([]);
  expect(questions()).toEqual([]);
  expect(box().value).toBe('Hello');
});

it('says that an answer still arrives, and sends nothing at its end', async () => {
  const conversation = await showAnswer('streaming');
  await showComposer(conversation.id);
  await send('Next');
  expect(texts('.send-notice')).toEqual([t('chat.held.answer')]);
  await act(async () => void await conversations.update(conversation.id, current => updateMessage(current, current.leaf.value ?? '', {state: 'complete'})));
  await settle();
  expect(texts('.send-notice')).toEqual([]);
  expect(box().value).toBe('Next');
});

it('has a button to stop that never becomes the one that sends', async () => {
  const conversation = await showAnswer('streaming');
  await showComposer(conversation.id);
  const stopButton = find('#stop');
  await act(async () => void await conversations.update(conversation.id, current => updateMessage(current, current.leaf.value ?? '', {state: 'complete'})));
  await until(() => expect(find('#send')).not.toBe(stopButton));
  expect(stopButton.isConnected).toBe(false);
});

it('says that the model of the conversation is away', async () => {
  const conversation = await showAnswer('complete');
  await showComposer(conversation.id);
  await act(() => { desktops.value = [{...ATTIC, models: ['qwen3']}]; });
  await send('Next');
  expect(texts('.send-notice')).toEqual([t('chat.held.modelAway', {model: 'llama3.2'})]);
  expect(box().value).toBe('Next');
});

it('sends a message that came before the conversation', async () => {
  const conversation = await showAnswer('complete');
  const load = vi.spyOn(MemoryStore.prototype, 'load');
  const stored = await conversations.snapshot(conversation.id);
  await conversations.switchUser('');
  let finish = (): void => {};
  load.mockReturnValue(new Promise(resolve => { finish = () => resolve(stored); }));
  await conversations.switchUser('a');
  await showComposer(conversation.id);
  await send('Next');
  expect([texts('.send-notice'), box().value]).toEqual([[t('chat.held.conversation')], 'Next']);
  await act(() => finish());
  await until(() => expect(box().value).toBe(''));
  expect(texts('.send-notice')).toEqual([]);
});

it('sends a message that came before its attachment was read', async () => {
  await showComposer();
  const finish = await attachSlowly();
  await send('Look');
  expect([texts('.send-notice'), box().value]).toEqual([[t('chat.held.attachments')], 'Look']);
  await act(() => finish(new Uint8Array()));
  await until(() => expect(questions()).toEqual(['Look']));
  expect(texts('.attachments')).toEqual([]);
});

it('sends nothing without an attachment that cannot be read', async () => {
  await showComposer();
  const refuse = await attachSlowly();
  await send('Look');
  await act(() => refuse(new Uint8Array([0xff])));
  await until(() => expect(texts('.toast p')).toEqual([t('chat.notText', {name: 'notes.txt'})]));
  expect([texts('.send-notice'), box().value, questions()]).toEqual([[], 'Look', []]);
});

it('adds an attachment to the conversation that it was chosen for alone', async () => {
  const {id} = await showAnswer('complete');
  await showComposer(id);
  const finish = await attachSlowly();
  await act(() => navigate('chat'));
  await showComposer();
  await act(() => finish(new Uint8Array()));
  await settle();
  await send('Alone');
  await until(() => expect(questions()).toContain('Alone'));
  const added = conversations.summaries.peek().find(({title}) => title === 'Alone');
  const stored = await conversations.snapshot(added?.id ?? '');
  expect(Object.values(stored?.conversation.messages ?? {}).flatMap(({attachments}) => attachments)).toEqual([]);
});

it('keeps attachments with their conversation while something else is shown', async () => {
  const {id} = await showAnswer('complete');
  await showComposer(id);
  (await attachSlowly())(new Uint8Array([0x61]));
  await until(() => expect(texts('.attachments li')).toEqual(['notes.txt']));
  await act(() => navigate('settings'));
  await show(<Toasts />);
  await act(() => navigate('chat'));
  await showComposer();
  expect(texts('.attachments li')).toEqual([]);
  await act(() => navigate('chat', id));
  await showComposer(id);
  expect(texts('.attachments li')).toEqual(['notes.txt']);
  await press(box(), 'Enter');
  await until(() => expect(texts('.attachments li')).toEqual([]));
  const stored = await conversations.snapshot(id);
  expect(Object.values(stored?.conversation.messages ?? {}).flatMap(({attachments}) => attachments)).toMatchObject([{name: 'notes.txt', data: 'a'}]);
});

it('takes an attachment that is read while something else is shown, and waits for it again', async () => {
  await showComposer();
  const finish = await attachSlowly();
  await show(<Toasts />);
  await showComposer();
  await send('Look');
  expect([texts('.send-notice'), texts('.attachments')]).toEqual([[t('chat.held.attachments')], []]);
  await show(<Toasts />);
  await act(() => finish(new Uint8Array([0x61])));
  await until(() => expect(attachmentDraft('').value).toMatchObject({attachments: [{name: 'notes.txt'}], reading: 0}));
  await showComposer();
  expect([texts('.attachments li'), box().value]).toEqual([['notes.txt'], 'Look']);
});

it('gives an attachment that was read too late to nobody else', async () => {
  await showComposer();
  const finish = await attachSlowly();
  await act(() => acceptToken({user: {id: 'b', name: 'bob'}, token: 'T', expires_in: 600}, Date.now()));
  await act(() => finish(new Uint8Array([0x61])));
  await settle();
  expect(attachmentDraft('').peek()).toEqual({attachments: [], reading: 0});
  acceptToken({user: {id: 'a', name: 'alice'}, token: 'T', expires_in: 600}, Date.now());
  expect(attachmentDraft('').peek()).toEqual({attachments: [], reading: 0});
});

it('sends nothing once the person adds or removes an attachment', async () => {
  desktops.value = null;
  await showComposer();
  await send('Look');
  const finish = await attachSlowly();
  expect(texts('.send-notice')).toEqual([]);
  await act(() => finish(new Uint8Array()));
  await until(() => expect(texts('.attachments li')).toHaveLength(1));
  await send('Look');
  expect(texts('.send-notice')).toEqual([t('chat.held.models')]);
  await click(find('.attachments button'));
  expect(texts('.send-notice')).toEqual([]);
});

it('sends nothing of a conversation that the person has left for another one', async () => {
  const [first, second] = [await showAnswer('complete'), await showAnswer('complete')];
  await act(() => navigate('chat', first.id));
  desktops.value = null;
  await showComposer(first.id);
  await send('Hello');
  await act(() => navigate('chat', second.id));
  await showComposer(second.id);
  expect(texts('.send-notice')).toEqual([]);
});

it('begins no new conversation with a message for one that turns out to be deleted', async () => {
  const {id} = await showAnswer('complete');
  desktops.value = null;
  await showComposer(id);
  await send('Next');
  await act(() => conversations.deleteNow([id]));
  expect(texts('.send-notice')).toEqual([]);
  await act(() => { desktops.value = [ATTIC]; });
  await settle();
  expect([box().value, questions()]).toEqual(['Next', []]);
});

it('sends a message to its own conversation, even if the person leaves that before the next frame', async () => {
  const [first, second] = [await showAnswer('complete'), await showAnswer('complete')];
  navigate('chat', first.id);
  desktops.value = null;
  await showComposer(first.id);
  await send('For the first');
  desktops.value = [ATTIC]; // rendered in the next microtask; effects follow with the next frame
  for (let turn = 0; turn < 10; turn += 1) await Promise.resolve();
  navigate('chat', second.id);
  await showComposer(second.id);
  await until(() => expect(box().value).toBe(''));
  const contents = async ({id}: Conversation) => Object.values((await conversations.snapshot(id))?.conversation.messages ?? {}).map(({content}) => content);
  await until(async () => expect(await contents(first)).toContain('For the first'));
  expect(await contents(second)).not.toContain('For the first');
});

it('says nothing about an empty box', async () => {
  desktops.value = null;
  await showComposer();
  await press(box(), 'Enter');
  expect(texts('.send-notice')).toEqual([]);
});

it('gives back a message whose conversation is deleted at that moment', async () => {
  const conversation = await showAnswer('complete');
  await showComposer(conversation.id);
  await write('Lost?');
  await act(() => {
    box().dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', bubbles: true, cancelable: true}));
    return conversations.deleteNow([conversation.id]);
  });
  await until(() => expect(box().value).toBe('Lost?'));
  expect(readDraft(conversation.id)).toBe('Lost?');
  expect(texts('.toast p')).toContain(t('chat.sendFailed'));
});

it('gives back a message that could not be sent if something else is shown by then', async () => {
  const conversation = await showAnswer('complete');
  await showComposer(conversation.id);
  (await attachSlowly())(new Uint8Array([0x61]));
  await until(() => expect(texts('.attachments li')).toHaveLength(1));
  await write('Lost?');
  await act(() => {
    box().dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', bubbles: true, cancelable: true}));
    navigate('settings');
    return conversations.deleteNow([conversation.id]);
  });
  await show(<Toasts />);
  await until(() => expect(readDraft('')).toBe('Lost?'));
  expect(attachmentDraft('').peek().attachments).toHaveLength(1);
  expect(texts('.toast p')).toContain(t('chat.sendFailed'));
});

describe('another answer', () => {
  const versions = async ({id}: Conversation): Promise<number> => Object.keys((await conversations.snapshot(id))?.conversation.messages ?? {}).length;
  const showLast = async (): Promise<Conversation> => {
    const {id} = await showAnswer('complete');
    const conversation = await conversations.update(id, current => updateMessage(current, current.leaf.value ?? '', {content: 'Half'}));
    const message = conversation && pathToLeaf(conversation).at(-1);
    if (!message) throw new Error('The conversation has no answer.');
    await show(<MessageView conversation={conversation.id} shown={{message, versions: [message.id]}} isLast />);
    return conversation;
  };
  const button = (key: 'chat.retry' | 'chat.continue'): HTMLButtonElement =>
    [...document.querySelectorAll('button')].find(each => (each.ariaLabel ?? each.textContent) === t(key)) ?? expect.fail('There is no such button.');

  it.each(['chat.retry', 'chat.continue'] as const)('is not asked for while the model is away, and the page says so: %s', async key => {
    const conversation = await showLast();
    await act(() => { desktops.value = [{...ATTIC, models: ['qwen3']}]; });
    await click(button(key));
    expect(texts('.send-notice')).toEqual([t('chat.notAsked.modelAway', {model: 'llama3.2'})]);
    await act(() => { desktops.value = [ATTIC]; });
    await settle();
    expect([texts('.send-notice'), await versions(conversation)]).toEqual([[], 2]);
    await click(button(key));
    await until(async () => expect(await versions(conversation)).toBe(3));
  });

  it.each([
    ['chat.continue', 'chat.retry'],
    ['chat.retry', 'chat.continue'],
  ] as const)('is asked for once the models are known, as the person asked last: %s, %s', async (first, last) => {
    const requests = answerRequests({'POST /ctllm/desktop/generations': NEVER});
    const conversation = await showLast();
    await act(() => { desktops.value = null; });
    await click(button(first));
    await click(button(last));
    expect(texts('.send-notice')).toEqual([t('chat.notAsked.models')]);
    await act(() => { desktops.value = [ATTIC]; });
    await until(async () => expect(await versions(conversation)).toBe(3));
    const asked = (): string[] => requests.filter(each => each.startsWith('POST /ctllm/desktop/generations') && each.includes(conversation.id));
    await until(() => expect(asked()).not.toEqual([]));
    await settle();
    expect(asked().map(each => each.includes('"Half"'))).toEqual([last === 'chat.continue']);
    expect(await versions(conversation)).toBe(3);
  });
});

describe('the end of an answer', () => {
  /** Sends a message in a conversation, whose desktop answers with `response`. */
  async function askFor(response: unknown, {id}: Conversation): Promise<void> {
    answerRequests({'POST /ctllm/desktop/generations': response});
    await act(() => navigate('chat', id));
    await showComposer(id);
    await send('And?');
    await until(() => expect(answers.conversations.value.has(id)).toBe(true));
  }

  /** Sends a message in a conversation; returns what ends the answer with this line. */
  async function ask(conversation: Conversation): Promise<(line: Readonly<Record<string, unknown>>) => Promise<void>> {
    const {id} = conversation;
    let controller: ReadableStreamDefaultController<Uint8Array> | undefined;
    await askFor(new Response(new ReadableStream({start: it => { controller = it; }})), conversation);
    return async line => {
      controller?.enqueue(new TextEncoder().encode(`${JSON.stringify(line)}\n`));
      controller?.close();
      await until(() => expect(answers.conversations.value.has(id)).toBe(false));
    };
  }
  const marked = ({id}: Conversation): boolean => unread.value.has(id);

  it.each([
    ['complete', {message: {content: 'Yes.'}, done: true}, 'chat.completeElsewhere'],
    ['incomplete', {error: 'out of memory'}, 'chat.incompleteElsewhere'],
  ] as const)('is told while something else is shown, and its conversation is marked: %s', async (_, line, sentence) => {
    const conversation = await showAnswer('complete');
    const end = await ask(conversation);
    await act(() => navigate('settings'));
    await end(line);
    await settle();
    expect([marked(conversation), texts('.toast p').at(-1)]).toEqual([true, t(sentence, {title: '\u2068Before\u2069'})]);
    navigate('chat', conversation.id);
  });

  it('is not told to who sees it, nor of an answer that the person has stopped', async () => {
    const [shown, stopped] = [await showAnswer('complete'), await showAnswer('complete')];
    await (await ask(shown))({message: {content: 'Yes.'}, done: true});
    await askFor(NEVER, stopped);
    await act(() => navigate('settings'));
    await act(() => answers.stopAllBut(new Set()));
    await until(() => expect(answers.conversations.value.size).toBe(0));
    expect([shown, stopped].map(marked)).toEqual([false, false]);
  });
});

it('says where the person types that nothing is kept, if the list is in a drawer; it can be closed', async () => {
  await showComposer();
  expect(document.querySelector('#storage-warning')).toBeNull();
  await act(() => { isNarrow.value = true; });
  expect(find('#storage-warning').textContent).toContain(t('storage.state.forbidden'));
  await click(find('#storage-warning button'));
  expect(document.querySelector('#storage-warning')).toBeNull();
  isNarrow.value = false;
});

it('ends an answer whose conversation is deleted, and no other one', async () => {
  const requests = answerRequests({'POST /ctllm/desktop/generations': NEVER});
  const stop = watchAnswers();
  const [kept, deleted] = [await showAnswer('complete'), await showAnswer('complete')];
  for (const {id} of [kept, deleted]) {
    await act(() => navigate('chat', id));
    await showComposer(id);
    await send('On and on');
    await until(() => expect(answers.conversations.value.has(id)).toBe(true));
  }
  const create = 'POST /ctllm/desktop/generations ';
  await until(() => expect(requests.filter(each => each.startsWith(create))).toHaveLength(2));
  const created: {id: string; conversation: string}[] = requests.filter(each => each.startsWith(create)).map(each => JSON.parse(each.slice(create.length)));
  // Answers of other tests may still be ended, too.
  const isEnded = (conversation: string): boolean => created.some(it => it.conversation === conversation
    && requests.some(each => each.startsWith(`DELETE /ctllm/desktop/generations/${it.id}`)));
  await act(() => conversations.delete([deleted.id]));
  await until(() => expect(isEnded(deleted.id)).toBe(true));
  await until(() => expect([...answers.conversations.value]).toEqual([kept.id]));
  expect(isEnded(kept.id)).toBe(false);
  answers.abandon();
  stop();
});

it('keeps an edited question that is not sent yet while something else is shown', async () => {
  const conversation = await showAnswer('complete');
  const [question] = Object.values(conversation.messages);
  if (!question) throw new Error('The conversation has no message.');
  const view = <MessageView conversation={conversation.id} shown={{message: question, versions: [question.id]}} isLast={false} />;
  await show(view);
  await act(() => find(`[aria-label="${t('chat.edit')}"]`).click());
  await write('Better');
  await show(<Toasts />);
  await show(view);
  expect(box().value).toBe('Better');
  await press(box(), 'Escape');
  expect([readEdit(conversation.id, question.id), texts('textarea')]).toEqual(['', []]);
});

it('keeps an edited question that cannot be sent', async () => {
  const conversation = await showAnswer('complete');
  const [question] = Object.values(conversation.messages);
  if (!question) throw new Error('The conversation has no message.');
  await show(<MessageView conversation={conversation.id} shown={{message: question, versions: [question.id]}} isLast={false} />);
  await act(() => find(`[aria-label="${t('chat.edit')}"]`).click());
  await act(() => { desktops.value = []; });
  await write('Better');
  await act(() => find('form .main').click());
  expect(box().value).toBe('Better');
  expect(texts('.send-notice')).toEqual([t('chat.held.modelAway', {model: 'llama3.2'})]);
  await write('Better still');
  expect(texts('.send-notice')).toEqual([]);
});
