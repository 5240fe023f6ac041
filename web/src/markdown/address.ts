/** Addresses in answers: which may be opened, and what of them is shown. */

export interface Address {
  /** The normalised URL, in ASCII. */
  readonly href: string;
  /** Where it leads: host and port, or the recipient of mail. International names are in their ASCII form. */
  readonly host: string;
}

const MAX_LENGTH = 2000;
const SCHEMES: readonly string[] = ['http:', 'https:', 'mailto:'];
/** Ends of names that a text has more often as a file than as a host. */
const FILES = /\.(?:c|cc|conf|cpp|cs|css|csv|go|h|html?|ini|java|jpe?g|js|json|jsx|lock|log|md|mjs|pdf|php|png|py|rb|rs|sh|sql|svg|toml|ts|tsx|txt|xml|ya?ml|zip)$/i;

/** Returns the address that a link or an image names; null if it may not be opened. Relative ones may not. */
export function readAddress(destination: string): Address | null {
  const trimmed = destination.trim();
  if (trimmed.length > MAX_LENGTH || /[\0-\x20\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/.test(trimmed)) return null;
  const url = URL.parse(trimmed);
  if (!url || !SCHEMES.includes(url.protocol)) return null;
  if (url.protocol === 'mailto:') return {href: url.href, host: url.pathname};
  if (url.username || url.password || !url.host) return null;
  return {href: url.href, host: url.host};
}

/** Returns whether a link's text names another host than the one to which it leads. */
export function isMisleading(text: string, {host}: Address): boolean {
  const named = readHost(text);
  return named !== '' && !isWithin(host.replace(/^.*@/, ''), named);
}

/** Returns whether a link's text shows by itself where it leads. */
export function namesHost(text: string, {host}: Address): boolean {
  return text.trim().toLowerCase() === host || readHost(text) === host;
}

function isWithin(host: string, named: string): boolean {
  return host === named || host.endsWith(`.${named}`) || named === `www.${host}`;
}

function readHost(text: string): string {
  const found = /^[\s(<"'\u201c]*(?:(?:[a-z][a-z0-9+.-]{1,20}:)?[/\\]{2})?(?:[^\s/@]{0,200}@)?((?:[\p{L}\p{N}_-]{1,63}[.\u3002\uff0e\uff61]){1,10}\p{L}[\p{L}\p{N}-]{1,62}|xn--[\w.-]{1,200})(:\d{1,5})?(?=$|[\s/?#)>"'\u201d,;!])/iu.exec(text);
  const name = found?.[1];
  if (!name || (FILES.test(name) && !/[/\\]{2}/.test(text))) return '';
  return URL.parse(`https://${name}${found?.[2] ?? ''}`)?.host ?? '';
}
