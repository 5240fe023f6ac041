import {describe, expect, it} from 'vitest';
import {newConversation, type Conversation} from './conversation';
import {
  addMessage, continueMessage, editMessage, latestDescendant, pathToLeaf, setValue, showMessage, siblingsOf, suggestTitle, updateMessage,
} from './tree';

const id = (digit: string): string => digit.repeat(32);
const [Q1, A1, Q2, A2, B1, B2] = ['1', '2', '3', '4', '5', '6'].map(id) as [string, string, string, string, string, string];

function talk(): Conversation {
  let conversation = newConversation(1000);
  conversation = addMessage(conversation, {id: Q1, role: 'user', content: 'One?'}, 1001);
  conversation = addMessage(conversation, {id: A1, role: 'assistant', content: 'One.'}, 1002);
  conversation = addMessage(conversation, {id: Q2, role: 'user', content: 'Two?'}, 1003);
  return addMessage(conversation, {id: A2, role: 'assistant', content: 'Two.'}, 1004);
}
const ids = (conversation: Conversation): readonly string[] => pathToLeaf(conversation).map(message => message.id);

describe('a conversation', () => {
  it('has its messages in order', () => expect(ids(talk())).toEqual([Q1, A1, Q2, A2]));

  it('is named after its first question, unless it has a name', () => {
    expect(talk().title).toEqual({value: 'One?', at: 1001});
    expect(addMessage(newConversation(1, {title: 'Mine'}), {role: 'user', content: 'x'}).title.value).toBe('Mine');
  });

  it('keeps an edited question beside the new one', () => {
    const edited = editMessage(talk(), Q2, {content: 'Zwei?'}, B1, 1005);
    expect(ids(edited)).toEqual([Q1, A1, B1]);
    expect(siblingsOf(edited, B1).map(message => message.content)).toEqual(['Two?', 'Zwei?']);
    expect(ids(showMessage(edited, Q2))).toEqual([Q1, A1, Q2, A2]);
  });

  it('continues an answer in a new one that begins with it', () => {
    const continued = continueMessage(talk(), A2, {id: B2}, 1005);
    expect(continued.messages[B2]).toMatchObject({content: 'Two.', prefix: 4, state: 'streaming', parent: Q2});
    expect(siblingsOf(continued, A2)).toHaveLength(2);
    const before = talk();
    expect(continueMessage(before, Q2)).toBe(before);
  });

  it('changes later than what was changed before, even if this clock is behind', () => {
    const ahead = setValue(talk(), 'model', 'a', 9_000);
    expect(setValue(ahead, 'model', 'b', 2_000).model).toEqual({value: 'b', at: 9_001});
    expect(updateMessage(updateMessage(talk(), A2, {content: 'x'}, 9_000), A2, {content: 'y'}, 5).messages[A2]?.updatedAt).toBe(9_001);
  });

  it('survives loops and gaps of a hostile copy', () => {
    const first = talk();
    const message = first.messages[Q1];
    if (!message) throw new Error('no message');
    const loop = {...first, messages: {...first.messages, [Q1]: {...message, parent: A2}}};
    expect(ids(loop)).toHaveLength(4);
    expect(latestDescendant(loop, Q1)).toBe(A2);
    expect(ids({...first, leaf: {value: id('f'), at: 1}})).toEqual([]);
    expect(ids({...first, leaf: {value: '__proto__', at: 1}})).toEqual([]);
  });
});

describe('a suggested title', () => {
  it.each([
    ['  Hello\n\nthere ', 'Hello there'],
    ['word '.repeat(30), `${'word '.repeat(11)}word…`],
    ['x'.repeat(100), `${'x'.repeat(60)}…`],
    ['😀'.repeat(61), `${'😀'.repeat(60)}…`],
  ])('of %j', (content, title) => expect(suggestTitle({content, attachments: []})).toBe(title));
});
