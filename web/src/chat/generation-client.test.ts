import {describe, expect, it} from 'vitest';
import {RequestError} from '../api/http';
import {until} from '../testing';
import {FakeDesktop} from './fake-desktop';
import {GenerationClient, type GenerationRequest, type Surroundings} from './generation-client';
import type {Phase} from './generation-state';

const ID = '0123456789abcdef0123456789abcdef';
const WORDS = Array.from({length: 40}, (_, index) => `wörd${index} 😀€ `);
const LINES = [...WORDS.map(content => ({message: {role: 'assistant', content}, done: false})), {message: {content: ''}, done: true}];

interface Reading {
  readonly desktop: FakeDesktop;
  readonly client: GenerationClient;
  readonly phases: Phase[];
  readonly text: () => string;
  readonly reason: () => string;
  readonly contacts: () => number;
  readonly wake: () => void;
}

function read(changes: Partial<GenerationRequest> = {}, desktop = new FakeDesktop(), around: Partial<Surroundings> = {}): Reading {
  const phases: Phase[] = [];
  let text = '';
  let reason = '';
  let contacts = 0;
  let wake: (hasNewNetwork: boolean) => void = () => {};
  const client = new GenerationClient(
    {id: ID, desktop: 'd', conversation: 'c', message: 'm', body: () => ({model: 'x'}), isRetained: true, isResumed: false, mayStart: false, ...changes},
    {
      onLine: line => { text += (line['message'] as {content: string}).content; },
      onPhase: (phase, why) => {
        phases.push(phase);
        reason = why;
      },
      onContact: () => { contacts += 1; },
    },
    {
      send: desktop.send,
      isHidden: () => false,
      onWake: listener => {
        wake = listener;
        return () => {};
      },
      random: () => 0.5,
      stallMs: 60_000,
      pace: 0.001,
      ...around,
    },
  );
  return {desktop, client, phases, text: () => text, reason: () => reason, contacts: () => contacts, wake: () => wake(true)};
}

function answering(): FakeDesktop {
  const desktop = new FakeDesktop();
  desktop.answer = LINES;
  return desktop;
}

describe('an answer', () => {
  it('is read to its end', async () => {
    const {client, text, desktop} = read({}, answering());
    expect(await client.run()).toBe('complete');
    expect(text()).toBe(WORDS.join(''));
    expect(desktop.sent).toEqual(['POST /ctllm/desktop/generations']);
  });

  it('is the same wherever the connection breaks', async () => {
    const total = new TextEncoder().encode(LINES.map(line => `${JSON.stringify(line)}\n`).join('')).length;
    for (let bytes = 0; bytes < 400; bytes += 1) {
      const desktop = answering();
      desktop.pieceSize = 7;
      desktop.cuts.push({bytes, how: 'break'}, {bytes: (bytes * 7) % total, how: 'end'}, {bytes: 1, how: 'break'});
      const {client, text} = read({}, desktop);
      expect(await client.run()).toBe('complete');
      expect(text()).toBe(WORDS.join(''));
    }
  });

  it('goes on behind the last complete line', async () => {
    const desktop = answering();
    const length = new TextEncoder().encode(`${JSON.stringify(LINES[0])}\n`).length;
    desktop.cuts.push({bytes: length + 5, how: 'break'});
    await read({}, desktop).client.run();
    expect(desktop.sent[1]).toBe(`GET /ctllm/desktop/generations/${ID}?from=${length}`);
  });

  it('goes on after an error of the proxy', async () => {
    const desktop = answering();
    desktop.cuts.push({bytes: 300, how: {code: 'desktop_lost'}}, {bytes: 300, how: {code: 'desktop_lost'}}, {bytes: 300, how: {code: 'upstream_failed'}});
    const {client, text} = read({}, desktop);
    expect(await client.run()).toBe('complete');
    expect(text()).toBe(WORDS.join(''));
  });

  it('is started again with the same id until that arrives', async () => {
    const desktop = answering();
    desktop.refusals.push(new RequestError('', 0), new RequestError('', 503, 1, 'proxy_unavailable'), new RequestError('', 502, 0, 'desktop_lost'));
    const {client, text} = read({}, desktop);
    expect(await client.run()).toBe('complete');
    expect(desktop.sent).toEqual(Array(4).fill('POST /ctllm/desktop/generations'));
    expect(desktop.generations.size).toBe(1);
    expect(text()).toBe(WORDS.join(''));
  });

  it('is read from its beginning after a reload', async () => {
    const desktop = answering();
    await read({}, desktop).client.run();
    const {client, text} = read({isResumed: true}, desktop);
    expect(await client.run()).toBe('complete');
    expect(text()).toBe(WORDS.join(''));
    expect(desktop.sent.at(-1)).toBe(`GET /ctllm/desktop/generations/${ID}?from=0`);
  });

  it('is started after a reload if the start never arrived', async () => {
    const {client, text} = read({isResumed: true, mayStart: true}, answering());
    expect(await client.run()).toBe('complete');
    expect(text()).toBe(WORDS.join(''));
  });

  it('is gone if the desktop has forgotten it', async () => {
    expect(await read({isResumed: true}, answering()).client.run()).toBe('gone');
  });

  it('is gone, and not started twice, if the desktop forgets it in the middle', async () => {
    const desktop = new FakeDesktop();
    const {client, text} = read({mayStart: true}, desktop);
    const end = client.run();
    await until(() => expect(desktop.generations.size).toBe(1));
    desktop.add(ID, LINES[0] ?? {});
    await until(() => expect(text()).toBe(WORDS[0]));
    desktop.restart();
    expect(await end).toBe('gone');
    expect(desktop.sent.filter(each => each.startsWith('POST'))).toHaveLength(1);
  });

  it('fails with the error of Ollama', async () => {
    const desktop = new FakeDesktop();
    desktop.answer = [...LINES.slice(0, 2), {error: 'out of memory'}];
    const {client, text, reason} = read({}, desktop);
    expect(await client.run()).toBe('failed');
    expect([text(), reason()]).toEqual([WORDS.slice(0, 2).join(''), 'out of memory']);
  });

  it('fails if the generation failed, after all of it was read', async () => {
    const desktop = new FakeDesktop();
    desktop.answer = LINES.slice(0, 2);
    desktop.finalState = 'failed';
    desktop.finalError = 'upstream_failed';
    const {client, text, reason} = read({}, desktop);
    expect(await client.run()).toBe('failed');
    expect([text(), reason()]).toEqual([WORDS.slice(0, 2).join(''), 'It is upstream_failed.']);
  });

  it.each([
    [new RequestError('no such model', 404), 'no such model'],
    [new RequestError('out of memory', 500), 'out of memory'],
    [new RequestError('Ollama is not running.', 503, 5, 'ollama_down'), 'Ollama is not running.'],
  ])('fails with a refusal: %s', async (refusal, expected) => {
    const desktop = new FakeDesktop();
    desktop.refusals.push(refusal);
    const {client, reason} = read({}, desktop);
    expect(await client.run()).toBe('failed');
    expect(reason()).toBe(expected);
  });
});

describe('stop', () => {
  it('ends the generation at the desktop, also if that cannot be reached at first', async () => {
    const desktop = new FakeDesktop();
    const {client} = read({}, desktop);
    const end = client.run();
    await until(() => expect(desktop.generations.size).toBe(1));
    desktop.refusals.push(new RequestError('', 0), new RequestError('', 503, 1, 'desktop_offline'));
    client.stop();
    expect(await end).toBe('stopped');
    await until(() => expect(desktop.generations.get(ID)?.state).toBe('cancelled'));
  });

  it('by another tab ends the reading here', async () => {
    const desktop = new FakeDesktop();
    const {client} = read({}, desktop);
    const end = client.run();
    await until(() => expect(desktop.generations.size).toBe(1));
    desktop.end(ID, 'cancelled', 'cancelled');
    expect(await end).toBe('stopped');
  });

  it('ends the wait for a network that is away', async () => {
    const desktop = new FakeDesktop();
    desktop.refusals.push(new RequestError('', 0));
    const {client, phases} = read({}, desktop, {pace: 1000});
    const end = client.run();
    await until(() => expect(phases).toContain('postponed'));
    client.stop();
    expect(await end).toBe('stopped');
  });
});

/** Answers the first requests never, and the others as the desktop. */
function hanging(desktop: FakeDesktop, count: number): Surroundings['send'] {
  let left = count;
  return (method, path, options) => {
    if (left-- <= 0) return desktop.send(method, path, options);
    desktop.sent.push(`${method} ${path} hangs`);
    return new Promise((_, reject) => options.signal?.addEventListener('abort', () => reject(new DOMException('', 'AbortError'))));
  };
}

describe('a request without a response', () => {
  it('that starts the generation is followed by a look at the desktop, and then sent again', async () => {
    const desktop = answering();
    const {client, text} = read({mayStart: true}, desktop, {send: hanging(desktop, 1), stallMs: 5});
    expect(await client.run()).toBe('complete');
    expect(text()).toBe(WORDS.join(''));
    expect(desktop.sent).toEqual(['POST /ctllm/desktop/generations hangs', 'GET /ctllm/desktop/generations', 'POST /ctllm/desktop/generations']);
  });

  it('for the rest is no interruption while the desktop has the generation', async () => {
    const desktop = answering();
    await read({}, desktop).client.run();
    const {client, contacts, phases} = read({isResumed: true}, desktop, {send: hanging(desktop, 1), stallMs: 5});
    expect(await client.run()).toBe('complete');
    expect(phases).toEqual(['resuming', 'checking', 'waiting', 'resuming', 'reading', 'complete']);
    expect(contacts()).toBe(2); // the list, and the response
  });

  it('is on its way when it has not failed for a while', async () => {
    const desktop = answering();
    const {client, contacts} = read({}, desktop, {send: hanging(desktop, 1), stallMs: 60});
    const end = client.run();
    await until(() => expect(contacts()).toBe(1));
    client.stop();
    expect(await end).toBe('stopped');
  });

  it('to a desktop that is away is no contact', async () => {
    const desktop = new FakeDesktop();
    desktop.refusals.push(...Array.from({length: 10_000}, () => new RequestError('', 404, 0, 'not_found')));
    const {client, contacts, phases} = read({isResumed: true}, desktop);
    const end = client.run();
    await until(() => expect(phases.filter(each => each === 'checking').length).toBeGreaterThan(2));
    expect(contacts()).toBe(0);
    client.abandon();
    await end;
  });
});

describe('the person', () => {
  it('may have it tried at once, however long the wait is', async () => {
    const desktop = answering();
    desktop.refusals.push(new RequestError('', 0));
    const {client, phases} = read({}, desktop, {pace: 1000});
    const end = client.run();
    await until(() => expect(phases).toContain('postponed'));
    client.retryNow();
    expect(await end).toBe('complete');
  });

  it('may have an attempt made again that gets no response', async () => {
    const desktop = answering();
    await read({}, desktop).client.run();
    const {client} = read({isResumed: true}, desktop, {send: hanging(desktop, 1)});
    const end = client.run();
    await until(() => expect(desktop.sent.at(-1)).toContain('hangs'));
    client.retryNow();
    expect(await end).toBe('complete');
  });
});

describe('a page that wakes up', () => {
  it('tries again at once', async () => {
    const desktop = answering();
    desktop.refusals.push(new RequestError('', 0));
    const {client, phases, wake} = read({}, desktop, {pace: 1000});
    const end = client.run();
    await until(() => expect(phases).toContain('postponed'));
    wake();
    expect(await end).toBe('complete');
  });

  it('makes a connection again that has been silent', async () => {
    const desktop = new FakeDesktop();
    const {client, text, wake, phases} = read({}, desktop, {pace: 0});
    const end = client.run();
    await until(() => expect(phases).toContain('reading'));
    await new Promise(resolve => setTimeout(resolve, 5));
    wake();
    await until(() => expect(desktop.sent).toContain(`GET /ctllm/desktop/generations/${ID}?from=0`));
    for (const line of LINES) desktop.add(ID, line);
    desktop.end(ID, 'complete');
    expect(await end).toBe('complete');
    expect(text()).toBe(WORDS.join(''));
  });
});

describe('a desktop without generations', () => {
  it('is asked as Ollama is', async () => {
    const {client, text, desktop} = read({isRetained: false}, answering());
    expect(await client.run()).toBe('complete');
    expect(text()).toBe(WORDS.join(''));
    expect(desktop.sent).toEqual(['POST /api/chat']);
  });

  it('has no second try', async () => {
    const desktop = answering();
    desktop.cuts.push({bytes: 200, how: 'break'});
    const {client} = read({isRetained: false}, desktop);
    expect(await client.run()).toBe('failed');
    expect(desktop.sent).toEqual(['POST /api/chat']);
  });
});
