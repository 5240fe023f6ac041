import {afterEach, expect, it} from 'vitest';
import {show, texts} from '../ui/testing';
import {newMessage, type NewMessage} from '../storage/conversation';
import {MessageView} from './message-view';

afterEach(() => show(null));

async function showMessage(values: NewMessage): Promise<void> {
  const message = newMessage(values, 0);
  await show(<MessageView conversation={'a'.repeat(32)} shown={{message, versions: [message.id]}} isLast={false} />);
}

it('shows what a call of a tool hides, and what its result hides', async () => {
  const toolCalls = [{name: 'look\u202eup', arguments: {path: 'a\u200bb'}}];
  await showMessage({role: 'assistant', toolCalls});
  expect(texts('.tool-call').join()).toContain('look⟨U+202E⟩up{\n  "path": "a⟨U+200B⟩b"\n}');
  await showMessage({role: 'tool', toolName: 'x\u2066', content: 'c\u202dd'});
  expect(texts('.tool-call')).toEqual(['Tool x⟨U+2066⟩c⟨U+202D⟩d']);
});

it('shows thoughts as they are, and the answer as Markdown', async () => {
  await showMessage({role: 'assistant', thinking: 'One <b>\n\n*two*', content: '*Yes*'});
  expect([texts('.thoughts'), texts('.markdown em')]).toEqual([['One <b>\n\n*two*'], ['Yes']]);
});
