import {describe, expect, it} from 'vitest';
import {describeLoaded, describeModel} from './desktop-models-section';
import {NO_PROGRESS, addLine} from './pull-progress';
import {describePull} from './pull-row';
import type {Pull} from './pull-store';

const now = Date.UTC(2026, 10, 29);
const plain = (text: string): string => text.replaceAll('\u00a0', ' ').replaceAll('\u202f', ' ');

describe('a model in the list', () => {
  it('has its size and kind', () => {
    const details = {parameter_size: '3.2B', quantization_level: 'Q4_K_M', family: 'llama'};
    expect(plain(describeModel({name: 'llama3.2', size: 2_019_393_189, details, modified_at: '2026-11-27T00:00:00Z'}, now)))
      .toBe('2 GB · 3.2B · Q4_K_M · llama · changed 2 days ago');
  });
  it('says where it runs, if that is not the desktop', () => {
    expect(describeModel({name: 'big:cloud', size: 300}, now)).toBe('runs at ollama.com');
    expect(describeModel({name: 'big', size: 300, remote_host: 'https://host.example'}, now)).toBe('runs at https://host.example');
  });
  it('is no problem without anything', () => expect(describeModel({name: 'x', size: 0, modified_at: 'soon'}, now)).toBe(''));
});

describe('a model in memory', () => {
  it('says how much, where, and until when', () => {
    expect(plain(describeLoaded({name: 'x', size: 4e9, size_vram: 3e9, expires_at: '2026-11-29T00:05:00Z', context_length: 4096}, now)))
      .toMatch(/^4 GB of memory, 75 % of it on the graphics card · context of 4,096 tokens · until Nov 29, 2026/);
  });
  it('may stay for ever', () => expect(plain(describeLoaded({name: 'x', size: 4e9, expires_at: '2126-01-01T00:00:00Z'}, now))).toBe('4 GB of memory · until Ollama ends'));
});

describe('a pull', () => {
  const pull: Pull = {id: 1, desktop: 'd', model: 'x', state: 'running', progress: NO_PROGRESS, error: ''};
  const line = {status: 'pulling a', digest: 'a', total: 2e9};

  it('says how far it is, how fast, and how long it will take', () => {
    const progress = addLine(addLine(NO_PROGRESS, {...line, completed: 0}, now), {...line, completed: 1e9}, now + 5000);
    expect(plain(describePull({...pull, progress}, now + 5000))).toBe('1 GB of 2 GB · 200 MB a second · 5 sec left');
  });
  it('has the words of Ollama before and after the download', () => {
    expect(describePull(pull, now)).toBe('Starting');
    expect(describePull({...pull, progress: addLine(NO_PROGRESS, {status: 'pulling manifest'}, now)}, now)).toBe('pulling manifest');
    const done = addLine(addLine(NO_PROGRESS, {...line, completed: 2e9}, now), {status: 'verifying sha256 digest'}, now);
    expect(describePull({...pull, progress: done}, now)).toBe('verifying sha256 digest');
  });
  it('says how it ended', () => {
    expect(describePull({...pull, state: 'failed', error: 'file does not exist'}, now)).toContain('file does not exist');
    expect(describePull({...pull, state: 'interrupted'}, now)).toContain('interrupted');
    expect(describePull({...pull, state: 'complete'}, now)).toBe('Complete');
  });
});
