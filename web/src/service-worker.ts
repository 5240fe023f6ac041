/// <reference lib="webworker" />
/** Caches the files of the page, so that it opens without a network. Responses of the API are never cached. */
export {};

declare const __SHELL_FILES__: readonly string[];
declare const __SHELL_VERSION__: string;
declare const self: ServiceWorkerGlobalScope;

/** Paths of the page's own files; the build fills them in. */
const files = new Set(__SHELL_FILES__);
/** The files are cached for every client: they vary with what a client accepts. */
const IGNORE_VARY = {ignoreVary: true};
const PREFIX = 'shell-';
/** The files of one version of the page. */
const CACHE = PREFIX + __SHELL_VERSION__;

async function install(): Promise<void> {
  const cache = await caches.open(CACHE);
  await cache.addAll([...files].map(path => new Request(path, {cache: 'reload', headers: {Accept: 'text/html, */*'}})));
  await self.skipWaiting(); // pages of the version before keep its files, see `activate`
}

/** Keeps the files of the version before: a page of it may still be open, and load more of them. */
async function activate(): Promise<void> {
  const others = (await caches.keys()).filter(name => name.startsWith(PREFIX) && name !== CACHE);
  await Promise.all(others.slice(0, -1).map(name => caches.delete(name)));
  await self.clients.claim();
}

/** Returns the newest page, or the cached one without a network. Assets are named after their content. */
async function respond(request: Request): Promise<Response> {
  const path = new URL(request.url).pathname;
  if (path.startsWith('/assets/')) return (await caches.match(path, IGNORE_VARY)) ?? fetch(request);
  try {
    const response = await fetch(request);
    return response.status < 500 ? response : ((await matchShell(path)) ?? response);
  } catch (error) {
    const cached = await matchShell(path);
    if (!cached) throw error;
    return cached;
  }
}

async function matchShell(path: string): Promise<Response | undefined> {
  return (await caches.open(CACHE)).match(path, IGNORE_VARY);
}

/** Whether the cache may have a file: an asset may be of the version before. */
function isShell({url, method}: Request): boolean {
  const {origin, pathname} = new URL(url);
  return method === 'GET' && origin === self.location.origin && (files.has(pathname) || pathname.startsWith('/assets/'));
}

self.addEventListener('install', event => event.waitUntil(install()));
self.addEventListener('activate', event => event.waitUntil(activate()));
self.addEventListener('fetch', event => {
  if (isShell(event.request)) event.respondWith(respond(event.request));
});
/** A page asks whether the file that it was started from is of this version. */
self.addEventListener('message', event => {
  const path: unknown = event.data;
  if (typeof path === 'string') event.ports[0]?.postMessage(files.has(path));
});
