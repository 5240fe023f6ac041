/** Whether a cloud serves this page, or a desktop on its own machine. */
import {isObject, readJson, request, RequestError, withTimeout} from '../api/http';

export type Role = 'cloud' | 'desktop';

let asked: Promise<Role> | null = null;

/** Returns whether a desktop may serve a page of this host name: only on its own machine does it. */
export function isLoopback(hostname: string): boolean {
  return hostname === 'localhost' || hostname === '[::1]' || /^127(\.\d{1,3}){3}$/.test(hostname);
}

/** Returns who serves this page; asks once, and only where a desktop may. Throws a RequestError. */
export function readRole(): Promise<Role> {
  if (!isLoopback(location.hostname)) return Promise.resolve('cloud');
  asked ??= requestRole().catch((error: unknown) => {
    asked = null;
    throw error;
  });
  return asked;
}

async function requestRole(): Promise<Role> {
  try {
    const body = await withTimeout({}, async options => readJson(await request('GET', '/ctllm/page', options)));
    return isObject(body) && body['role'] === 'desktop' ? 'desktop' : 'cloud';
  } catch (error) {
    // A cloud of an older version does not know the path, and a desktop passes it to Ollama.
    if (error instanceof RequestError && (error.status === 404 || error.status === 401)) return 'cloud';
    throw error;
  }
}
