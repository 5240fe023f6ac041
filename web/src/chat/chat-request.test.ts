import {describe, expect, it} from 'vitest';
import {newConversation, type Conversation} from '../storage/conversation';
import {addMessage, continueMessage, editMessage, pathToLeaf, setValue, showMessage} from '../storage/tree';
import {withVersions} from './branches';
import {chatRequest} from './chat-request';

const leafOf = (conversation: Conversation): string => conversation.leaf.value ?? '';
const start = newConversation(1, {model: 'm'});
const asked = addMessage(start, {role: 'user', content: 'Hello'}, 2);
const answered = addMessage(asked, {id: 'a'.repeat(32), role: 'assistant', model: 'm', content: 'Hi'}, 3);

describe('the request for an answer', () => {
  it('has all messages before it', () => {
    const again = addMessage(addMessage(answered, {role: 'user', content: 'Why?'}, 4), {role: 'assistant', model: 'm', state: 'streaming'}, 5);
    expect(chatRequest(again, leafOf(again))).toEqual({
      model: 'm',
      stream: true,
      messages: [{role: 'user', content: 'Hello'}, {role: 'assistant', content: 'Hi'}, {role: 'user', content: 'Why?'}],
    });
  });

  it('has the instructions of the conversation', () => {
    const instructed = setValue(setValue(setValue(answered, 'system', 'Be short.'), 'options', {temperature: 0}), 'think', false);
    expect(chatRequest(instructed, leafOf(instructed))).toEqual({
      model: 'm', stream: true, options: {temperature: 0}, think: false,
      messages: [{role: 'system', content: 'Be short.'}, {role: 'user', content: 'Hello'}],
    });
  });

  it('has what it continues as its last message', () => {
    const continued = continueMessage(answered, leafOf(answered), {}, 4);
    expect(chatRequest(continued, leafOf(continued))['messages']).toEqual([{role: 'user', content: 'Hello'}, {role: 'assistant', content: 'Hi'}]);
  });

  it('has images, and text files in a fence that they cannot end', () => {
    const attachments = [
      {kind: 'image', name: 'a.png', type: 'image/png', data: 'AAAA'},
      {kind: 'text', name: 'b.md', type: 'text/markdown', data: '````\nx\n````'},
    ] as const;
    const conversation = addMessage(addMessage(start, {role: 'user', content: 'See', attachments}, 2), {role: 'assistant', model: 'm'}, 3);
    expect(chatRequest(conversation, leafOf(conversation))['messages']).toEqual([
      {role: 'user', content: 'b.md:\n`````\n````\nx\n````\n`````\n\nSee', images: ['AAAA']},
    ]);
  });

  it('leaves out answers that said nothing', () => {
    const failed = addMessage(addMessage(asked, {role: 'assistant', model: 'm', state: 'failed'}, 3), {role: 'user', content: 'And now?'}, 4);
    const last = addMessage(failed, {role: 'assistant', model: 'm'}, 5);
    expect(chatRequest(last, leafOf(last))['messages']).toEqual([{role: 'user', content: 'Hello'}, {role: 'user', content: 'And now?'}]);
  });
});

describe('the messages that are shown', () => {
  it('have their versions, oldest first', () => {
    const [first, answer] = pathToLeaf(answered).map(({id}) => id);
    const edited = editMessage(answered, first ?? '', {content: 'Hello?'}, 'b'.repeat(32), 9);
    expect(withVersions(edited, pathToLeaf(edited))).toMatchObject([{message: {content: 'Hello?'}, versions: [first, 'b'.repeat(32)]}]);
    const before = showMessage(edited, answer ?? '', 10);
    expect(withVersions(before, pathToLeaf(before).slice(-1))).toMatchObject([{message: {content: 'Hi'}, versions: [answer]}]);
  });

  it('have no versions of another role, and older ones first', () => {
    const tool = addMessage(answered, {id: 'c'.repeat(32), role: 'tool', parent: pathToLeaf(answered)[0]?.id ?? null}, 1);
    const again = addMessage(tool, {id: 'd'.repeat(32), role: 'assistant', parent: pathToLeaf(answered)[0]?.id ?? null}, 2);
    expect(withVersions(again, pathToLeaf(again)).at(-1)?.versions).toEqual(['d'.repeat(32), 'a'.repeat(32)]);
  });
});
