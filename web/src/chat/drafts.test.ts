import {afterEach, expect, it, vi} from 'vitest';
import type {Attachment} from '../storage/conversation';

type Drafts = typeof import('./drafts');

const file = (data: string): Attachment => ({kind: 'text', name: 'notes.txt', type: 'text/plain', data});
const LARGE = 'x'.repeat(2_000_001);

/** Loads the page, as after a reload. */
async function reload(person = 'alice'): Promise<Drafts> {
  vi.resetModules();
  const {acceptToken} = await import('../session/session');
  acceptToken({user: {id: person, name: person}, token: 'T', expires_in: 600}, Date.now());
  return import('./drafts');
}

/** Leaves the page; returns whether the browser asks before. */
function leave(): boolean {
  const event = new Event('beforeunload', {cancelable: true});
  dispatchEvent(event);
  return event.defaultPrevented;
}

afterEach(() => {
  vi.restoreAllMocks();
  sessionStorage.clear();
});

it('keeps attachments for a reload, and for their person alone', async () => {
  const drafts = await reload();
  drafts.setAttachments('', [file('Hello')]);
  expect(leave()).toBe(false);
  expect((await reload('bob')).attachmentDraft('').value.attachments).toEqual([]);
  const {attachmentDraft, setAttachments} = await reload();
  expect([attachmentDraft('').value, attachmentDraft('a').value.attachments]).toEqual([{attachments: [file('Hello')], reading: 0}, []]);
  setAttachments('', []);
  expect((await reload()).attachmentDraft('').value.attachments).toEqual([]);
});

it('has the browser ask before attachments are lost that are too large to be stored', async () => {
  const {attachmentDraft, setAttachments} = await reload();
  setAttachments('', [file(LARGE)]);
  expect(attachmentDraft('').value.attachments).toHaveLength(1);
  expect([leave(), sessionStorage.length]).toEqual([true, 0]);
  setAttachments('', []);
  expect(leave()).toBe(false);
});

it('has the browser ask if it has no room for attachments', async () => {
  const {setAttachments} = await reload();
  vi.spyOn(Storage.prototype, 'setItem').mockImplementation(() => { throw new DOMException('', 'QuotaExceededError'); });
  setAttachments('', [file('Hello')]);
  expect(leave()).toBe(true);
  setAttachments('', []);
  expect(leave()).toBe(false);
});

it('has the browser ask while files are being read', async () => {
  const {attachmentDraft, beginReading} = await reload();
  const end = beginReading('');
  expect([attachmentDraft('').value.reading, leave()]).toEqual([1, true]);
  end();
  expect([attachmentDraft('').value.reading, leave()]).toEqual([0, false]);
});

it('believes nothing that is stored', async () => {
  sessionStorage.setItem('ctllm.draft.attachments..alice', '[{"kind": "image", "type": "text/html", "data": "<b>"}, 1]');
  sessionStorage.setItem('ctllm.draft.attachments.a.alice', '{');
  const {attachmentDraft} = await reload();
  expect([attachmentDraft('').value.attachments, attachmentDraft('a').value.attachments]).toEqual([[], []]);
});

it('forgets all of a person who wants nothing to be left, and nothing of another one', async () => {
  const other = await reload('bob');
  other.writeDraft('', 'Of Bob');
  const {attachmentDraft, forgetDrafts, readDraft, readEdit, setAttachments, writeDraft, writeEdit} = await reload();
  writeDraft('a', 'Text');
  writeEdit('a', 'b', 'Better');
  setAttachments('', [file(LARGE)]);
  setAttachments('a', [file('Hello')]);
  forgetDrafts('alice');
  expect([readDraft('a'), readEdit('a', 'b'), attachmentDraft('').value.attachments, attachmentDraft('a').value.attachments, leave()]).toEqual(['', '', [], [], false]);
  expect(Object.keys(sessionStorage)).toEqual(['ctllm.draft..bob']);
});

it('forgets what was begun in conversations that are deleted, and in no other one', async () => {
  const {attachmentDraft, forgetDraftsOf, readDraft, readEdit, setAttachments, writeDraft, writeEdit} = await reload();
  const [kept, gone, large] = ['a'.repeat(32), 'b'.repeat(32), 'c'.repeat(32)];
  for (const each of ['', kept, gone]) {
    writeDraft(each, 'Text');
    setAttachments(each, [file('Hello')]);
    if (each) writeEdit(each, 'd'.repeat(32), 'Better');
  }
  setAttachments(large, [file(LARGE)]);
  expect(leave()).toBe(true);
  forgetDraftsOf([gone, large, 'd'.repeat(32)]);
  expect([leave(), readDraft(gone), readEdit(gone, 'd'.repeat(32)), attachmentDraft(gone).value.attachments]).toEqual([false, '', '', []]);
  expect([readDraft(''), readDraft(kept), readEdit(kept, 'd'.repeat(32)), attachmentDraft(kept).value.attachments]).toEqual(['Text', 'Text', 'Better', [file('Hello')]]);
  expect(Object.keys(sessionStorage).filter(key => key.includes(gone))).toEqual([]);
});

it('leaves the draft that the person is looking at, whose conversation was deleted elsewhere', async () => {
  const {forgetDraftsOf, readDraft, writeDraft} = await reload();
  const {navigate} = await import('../app/router');
  const [shown, other] = ['a'.repeat(32), 'b'.repeat(32)];
  for (const each of [shown, other]) writeDraft(each, 'Text');
  navigate('chat', shown);
  forgetDraftsOf([shown, other]);
  expect([readDraft(shown), readDraft(other)]).toEqual(['Text', '']);
  navigate('chat');
  forgetDraftsOf([shown, other]);
  expect(readDraft(shown)).toBe('');
});
