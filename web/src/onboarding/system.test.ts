import {expect, it} from 'vitest';
import {detectSystem} from './system';

it.each([
  ['linux', 'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/140.0.0.0 Safari/537.36'],
  ['macos', 'Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 Version/17.0 Safari/605.1.15'],
  ['windows', 'Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/140.0.0.0 Safari/537.36'],
  ['linux', 'Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15'],
  ['linux', 'Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36'],
  ['linux', ''],
] as const)('a browser is on %s: %s', (system, agent) => expect(detectSystem(agent)).toBe(system));
