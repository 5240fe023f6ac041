/** The view that the fragment of the URL names: `#view=settings`, `#view=chat&id=…`. */
import {computed, signal} from '@preact/signals';

const VIEWS = ['chat', 'settings', 'models', 'status', 'privacy', 'setup'] as const;
export type View = (typeof VIEWS)[number];

export interface Route {
  readonly view: View;
  /** The conversation; '' for a new one. */
  readonly id: string;
}

/** Parameters of links that ask for something else than a view. */
const REQUESTS = ['invite', 'machine', 'login-error'] as const;

/** Returns the route of a fragment (with or without `#`); anything unknown is a new chat. */
export function parseRoute(fragment: string): Route {
  const parameters = parseFragment(fragment);
  const named = parameters.get('view') ?? 'chat';
  const view = VIEWS.find(each => each === named) ?? 'chat';
  const id = parameters.get('id') ?? '';
  return {view, id: view === 'chat' && /^[0-9a-f]{32}$/.test(id) ? id : ''};
}

export function formatRoute({view, id}: Route): string {
  if (view !== 'chat') return `#view=${view}`;
  return id ? `#view=chat&id=${id}` : '';
}

/** Whether a fragment asks to log in, or about a machine, and names no view: then the view stays. */
export function namesNoView(fragment: string): boolean {
  const parameters = parseFragment(fragment);
  return !parameters.has('view') && REQUESTS.some(name => parameters.has(name));
}

function parseFragment(fragment: string): URLSearchParams {
  return new URLSearchParams(fragment.replace(/^#/, ''));
}

/** The conversation that was last shown; '' for a new one. */
let lastConversation = '';

const current = signal<Route>(parseRoute(location.hash));
export const route = computed(() => current.value);
current.subscribe(({view, id}) => { if (view === 'chat') lastConversation = id; });

/** Shows the chat as it was before another view was shown. */
export function returnToChat(): void {
  navigate('chat', lastConversation);
}

/** Shows a new chat in place of the conversation that is shown, or was last: it is another person's. */
export function forgetConversation(): void {
  lastConversation = '';
  if (current.peek().id) navigate('chat', '', {replace: true});
}

/** Shows another view. `replace` leaves no entry in the history. */
export function navigate(view: View, id = '', {replace = false} = {}): void {
  const next = {view, id};
  const url = location.pathname + location.search + formatRoute(next);
  if (replace) history.replaceState(null, '', url);
  else history.pushState(null, '', url);
  current.value = next;
}

function follow(): void {
  if (namesNoView(location.hash)) return;
  const next = parseRoute(location.hash);
  if (formatRoute(next) !== formatRoute(current.value)) current.value = next;
}

addEventListener('popstate', follow);
addEventListener('hashchange', follow);
