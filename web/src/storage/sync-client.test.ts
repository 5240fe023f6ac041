import {describe, expect, it} from 'vitest';
import {RequestError, type RequestOptions} from '../api/http';
import {newConversation} from './conversation';
import {httpSyncClient} from './sync-client';

const ID = 'a'.repeat(32);
const {signal} = new AbortController();
let sent: {readonly method: string; readonly path: string; readonly options: RequestOptions}[];

function clientThatGets(body: BodyInit | null, headers: Record<string, string> = {}): ReturnType<typeof httpSyncClient> {
  sent = [];
  return httpSyncClient(async (method, path, options) => {
    sent.push({method, path, options});
    return new Response(body, {headers});
  });
}

describe('a request', () => {
  it('names the desktop, and the revision that it is based on', async () => {
    const client = clientThatGets('{"revision": 7}');
    const conversation = {...newConversation(1), id: ID};
    expect([await client.put('desk', conversation, 0, signal), await client.put('desk', conversation, 5, signal)]).toEqual([7, 7]);
    expect(sent.map(({method, path, options}) => [method, path, options.headers])).toEqual([
      ['PUT', `/ctllm/desktop/conversations/${ID}`, {'Ctllm-Desktop': 'desk', 'If-None-Match': '*'}],
      ['PUT', `/ctllm/desktop/conversations/${ID}`, {'Ctllm-Desktop': 'desk', 'If-Match': '"5"'}],
    ]);
    expect(sent[0]?.options.body).toBe(conversation);
  });

  it('gives a document with its revision', async () => {
    expect(await clientThatGets('{"a": 1}', {ETag: '"12"'}).get('desk', ID, signal)).toEqual({revision: 12, document: {a: 1}});
  });
});

describe('a response of a hostile desktop', () => {
  it.each(['null', '[]', '{"revision": -1, "conversations": []}', '{"revision": 1e300, "conversations": []}', '{"revision": 1}', '{"revision"'])('is an error: %s', async body => {
    await expect(clientThatGets(body).list('desk', 0, signal)).rejects.toThrow(RequestError);
  });

  it('loses what is no conversation', async () => {
    const body = JSON.stringify({revision: 3, conversations: [{id: '../../x', revision: 1}, {id: ID, revision: '2'}, 7, {id: ID, revision: 2}], damaged: ['x', ID]});
    expect(await clientThatGets(body).list('desk', 0, signal)).toEqual({
      revision: 3, conversations: [{id: ID, revision: 2, size: 0, deleted: false}], damaged: [ID],
    });
  });

  it('is read up to a limit', async () => {
    let given = 0;
    const endless = new ReadableStream<Uint8Array<ArrayBuffer>>({
      pull(controller) {
        given += 1;
        controller.enqueue(new Uint8Array(1 << 20));
      },
    });
    await expect(clientThatGets(endless, {ETag: '"1"'}).get('desk', ID, signal)).rejects.toThrow(RequestError);
    expect(given).toBeLessThan(60);
  });

  it('without a revision is an error', async () => {
    await expect(clientThatGets('{}', {ETag: 'W/"x"'}).get('desk', ID, signal)).rejects.toThrow(RequestError);
  });
});
