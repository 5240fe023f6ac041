import 'fake-indexeddb/auto';
import {afterEach, expect, it} from 'vitest';
import {deleteConversation, lastDeleted, undoDelete} from './actions';
import {conversations} from './conversations';

afterEach(() => conversations.switchUser(''));

it('offers to undo a deletion, but to nobody else', async () => {
  await conversations.switchUser('alice');
  const {id} = conversations.create({title: 'Secret'});
  await deleteConversation({id, title: 'Secret'});
  expect(lastDeleted.value).toEqual({ids: [id], title: 'Secret'});
  await undoDelete();
  expect(conversations.summaries.value).toHaveLength(1);
  await deleteConversation({id, title: 'Secret'});
  await conversations.switchUser('bob');
  expect(lastDeleted.value).toBeNull();
});
