import {describe, expect, it} from 'vitest';
import {CLIENTS, listSteps, type Client} from './snippet';

const target = {url: 'https://c.example/', key: 'ctllm-k-1', model: 'qwen3:4b'};

function find(name: string): Client {
  const client = CLIENTS.find(each => each.name === name);
  if (!client) throw new Error(name);
  return client;
}

function text(name: string, isOnDesktop: boolean, changed: Partial<typeof target> = {}): string {
  return listSteps(find(name), isOnDesktop, {...target, ...changed}).map(step => step.text).join('\n');
}

describe('the steps for a program', () => {
  it('has each promised program', () => {
    const names = CLIENTS.map(({name}) => name);
    expect(names).toEqual(expect.arrayContaining(['curl', 'openai', 'anthropic', 'ollama-python', 'open-webui', 'continue', 'codex', 'claude-code', 'aider']));
  });

  it.each(CLIENTS.map(client => [client.name, client] as const))('of %s keep no placeholder, and give a desktop no key', (_, client) => {
    for (const isOnDesktop of [true, false]) {
      const texts = listSteps(client, isOnDesktop, target).map(step => step.text).join('\n');
      expect(texts).not.toMatch(/<(URL|KEY|MODEL)>/);
      expect(texts.includes('ctllm-k-1')).toBe(!isOnDesktop && client.needsKey);
    }
    expect(client.cloudSteps.length > 0 || client.cloudUnsupported !== '').toBe(true);
  });

  it('has the address of this server without a slash at its end', () => {
    expect(text('openai', false)).toContain('OPENAI_BASE_URL=https://c.example/v1 OPENAI_API_KEY=ctllm-k-1');
  });

  it('has words in place of what is not known', () => {
    expect(text('curl', false, {key: '', model: ''})).toContain('YOUR-KEY');
    expect(text('curl', false, {key: '', model: ''})).toContain('"MODEL"');
  });

  it('has nothing that a shell would run', () => {
    expect(text('curl', false, {key: '$(reboot)', model: "x'; reboot; '"})).not.toContain('reboot');
    expect(listSteps(find('curl'), false, {...target, url: 'https://c.example/$(reboot)'})).toEqual([]);
    expect(text('curl', false, {model: '<KEY>'})).toContain('"MODEL"');
  });
});
