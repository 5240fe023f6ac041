/** Addresses of scripts, as the policy of the page requires them: only its own files are scripts. */

/** The part of Trusted Types that the page uses; browsers without them take strings. */
interface TrustedTypes {
  createPolicy(name: string, rules: {readonly createScriptURL: (url: string) => string}): {createScriptURL(url: string): unknown};
}

let policy: {createScriptURL(url: string): unknown} | null = null;

/** Returns the address of a script of this page, for `new Worker` and `serviceWorker.register`. Throws for any other. */
export function trustScript(url: string): string {
  const types = (globalThis as {readonly trustedTypes?: TrustedTypes}).trustedTypes;
  if (!types) return check(url);
  policy ??= types.createPolicy('ctllm', {createScriptURL: check});
  return policy.createScriptURL(url) as string;
}

function check(url: string): string {
  const {origin, pathname, href} = new URL(url, location.href);
  const isOwn = origin === location.origin && /^\/(?:assets\/[\w-]+|service-worker)\.js$/.test(pathname);
  if (!isOwn) throw new TypeError(`This is no script of the page: ${url}`);
  return href;
}
