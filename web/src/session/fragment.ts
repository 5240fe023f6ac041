/** What a link to the page asks for, apart from a view: its fragment never reaches a server. */

import {formatRoute, route} from '../app/router';

/** Returns the parameter `name` of a fragment, or null without one. */
export function readParameter(fragment: string, name: string): string | null {
  return new URLSearchParams(fragment.replace(/^#/, '')).get(name) || null;
}

/** Returns a fragment without the parameter `name`; '' if nothing is left. */
export function removeParameter(fragment: string, name: string): string {
  const parameters = new URLSearchParams(fragment.replace(/^#/, ''));
  parameters.delete(name);
  return parameters.size ? `#${parameters}` : '';
}

/** Removes a parameter from the address of the page and from its history; returns its value. */
export function takeParameter(name: string): string | null {
  const value = readParameter(location.hash, name);
  if (value === null) return null;
  const rest = removeParameter(location.hash, name) || formatRoute(route.value);
  history.replaceState(history.state, '', location.pathname + location.search + rest);
  return value;
}
