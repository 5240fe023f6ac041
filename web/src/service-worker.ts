/// <reference lib="webworker" />
/** Caches the files of the page, so that it opens without a network. Responses of the API are never cached. */
export {};

declare const __SHELL_FILES__: readonly string[];
declare const self: ServiceWorkerGlobalScope;

/** Paths of the page's own files; the build fills them in. */
const files = new Set(__SHELL_FILES__);
const CACHE = 'shell';

async function install(): Promise<void> {
  const cache = await caches.open(CACHE);
  await cache.addAll([...files].map(path => new Request(path, {cache: 'reload', headers: {Accept: 'text/html, */*'}})));
  await self.skipWaiting();
}

async function activate(): Promise<void> {
  const cache = await caches.open(CACHE);
  const stale = (await cache.keys()).filter(request => !files.has(new URL(request.url).pathname));
  await Promise.all(stale.map(request => cache.delete(request)));
  await self.clients.claim();
}

/** Returns the newest page, or the cached one without a network. Its assets are named after their content. */
async function respond(request: Request): Promise<Response> {
  const cache = await caches.open(CACHE);
  const path = new URL(request.url).pathname;
  if (path.startsWith('/assets/')) return (await cache.match(path)) ?? fetch(request);
  return fetch(request).catch(async error => (await cache.match(path)) ?? Promise.reject(error));
}

self.addEventListener('install', event => event.waitUntil(install()));
self.addEventListener('activate', event => event.waitUntil(activate()));
self.addEventListener('fetch', event => {
  const url = new URL(event.request.url);
  const isShell = url.origin === self.location.origin && files.has(url.pathname) && event.request.method === 'GET';
  if (isShell) event.respondWith(respond(event.request));
});
