/** The path of this connection, from the browser to Ollama: the state of each node, as far as it is known. */
import type {RequestError} from '../api/http';
import type {Desktop, PageServer, ProxyStatus} from '../api/types';
import {plural, t, type TextKey} from '../i18n/i18n';
import {chooseBestDesktop} from './best-desktop';
import type {Reachability} from './status-store';

export type NodeName = 'browser' | 'cloud' | 'proxy' | 'desktop' | 'ollama';
export type NodeState = 'ok' | 'waiting' | 'demo' | 'off' | 'unknown';

export interface PathNode {
  readonly name: NodeName;
  readonly state: NodeState;
  readonly detail: string;
  /** Of the connection that leads to it from the node before; null if it is not known. */
  readonly latency: number | null;
}

export interface Path {
  readonly nodes: readonly PathNode[];
  /** What to do, or what to know; ''. */
  readonly hint: string;
}

/** What is known of the connection. */
export interface Connection {
  readonly isOnline: boolean;
  readonly reachability: Reachability;
  readonly server: PageServer | null;
  readonly latency: number | null;
  readonly isLoggedIn: boolean;
  readonly proxy: ProxyStatus | null;
  readonly isProxyUnknown: boolean;
  readonly desktops: readonly Desktop[] | null;
  readonly problem: RequestError | null;
}

/** From the worst to the best. */
const SEVERITY: readonly NodeState[] = ['off', 'waiting', 'unknown', 'demo', 'ok'];

type NodeStatus = Omit<PathNode, 'name'>;
const UNKNOWN: NodeStatus = {state: 'unknown', detail: '', latency: null};

/** Returns the path; a desktop that serves the page itself is the second node. */
export function describePath(connection: Connection): Path {
  const isOnDesktop = connection.server?.role === 'desktop';
  const best = chooseBestDesktop(connection.desktops ?? []);
  const browser = describeBrowser(connection);
  if (isOnDesktop) {
    const statuses = {browser, desktop: describeOwnDesktop(connection, best), ollama: describeOllama(best)};
    return {nodes: name(statuses, ['browser', 'desktop', 'ollama']), hint: giveHint(connection, best)};
  }
  const isBeyondCloud = connection.reachability === 'ok' && connection.isLoggedIn;
  const proxy = isBeyondCloud ? describeProxy(connection) : UNKNOWN;
  const isBeyondProxy = proxy.state === 'ok' && connection.desktops !== null;
  const statuses = {
    browser,
    cloud: describeCloud(connection),
    proxy,
    desktop: isBeyondProxy ? describeDesktop(best, (connection.desktops?.length ?? 1) - 1) : UNKNOWN,
    ollama: isBeyondProxy ? describeOllama(best) : UNKNOWN,
  };
  return {nodes: name(statuses, ['browser', 'cloud', 'proxy', 'desktop', 'ollama']), hint: giveHint(connection, best)};
}

/** Returns the node that a person should know of: the worst one, of several the first. */
export function findWorst(nodes: readonly PathNode[]): PathNode | undefined {
  return nodes.toSorted((a, b) => SEVERITY.indexOf(a.state) - SEVERITY.indexOf(b.state))[0];
}

function name(statuses: Partial<Record<NodeName, NodeStatus>>, names: readonly NodeName[]): readonly PathNode[] {
  return names.map(each => ({...(statuses[each] ?? UNKNOWN), name: each}));
}

function describeBrowser({isOnline, reachability}: Connection): NodeStatus {
  const hasNetwork = isOnline || reachability === 'ok' || reachability === 'failing';
  return {state: hasNetwork ? 'ok' : 'off', detail: t(hasNetwork ? 'status.thisPage' : 'status.noNetwork'), latency: null};
}

const REACHABILITY = {
  unknown: {state: 'unknown', key: null},
  ok: {state: 'ok', key: null},
  failing: {state: 'off', key: 'status.notWorking'},
  unreachable: {state: 'off', key: 'status.unreachable'},
} as const satisfies Record<Reachability, {readonly state: NodeState; readonly key: TextKey | null}>;

function describeCloud({reachability, server, latency}: Connection): NodeStatus {
  const {state, key} = REACHABILITY[reachability];
  const version = state === 'ok' && server ? `ctllm ${server.version}` : '';
  return {state, detail: key ? t(key) : version, latency: state === 'ok' ? latency : null};
}

function describeProxy({proxy, isProxyUnknown}: Connection): NodeStatus {
  if (isProxyUnknown) return {...UNKNOWN, state: 'off', detail: t('status.notAvailable')};
  if (!proxy) return UNKNOWN;
  const {state, exchanges} = proxy;
  if (state === 'running') {
    return {...UNKNOWN, state: 'ok', detail: exchanges ? plural('status.inProgress', exchanges) : t('status.running')};
  }
  if (state === 'starting') return {...UNKNOWN, state: 'waiting', detail: t('status.starting')};
  return {...UNKNOWN, state: 'off', detail: t(state === 'failed' ? 'status.didNotStart' : 'status.notRunning')};
}

function describeDesktop(best: Desktop | null, others: number): NodeStatus {
  if (!best) return {...UNKNOWN, state: 'off', detail: t('status.notConnected')};
  const detail = others > 0 ? t('status.andMore', {name: best.name, count: others}) : best.name;
  return {state: 'ok', detail, latency: best.latency_ms ?? null};
}

function describeOwnDesktop({reachability, server, latency}: Connection, best: Desktop | null): NodeStatus {
  const {state, key} = REACHABILITY[reachability];
  const detail = best?.name ?? (server ? `ctllm ${server.version}` : '');
  return {state, detail: key ? t(key) : detail, latency: state === 'ok' ? latency : null};
}

function describeOllama(best: Desktop | null): NodeStatus {
  if (!best) return UNKNOWN;
  if (best.ollama === 'up') return {...UNKNOWN, state: 'ok', detail: t('status.version', {version: best.version})};
  if (best.ollama === 'demo') return {...UNKNOWN, state: 'demo', detail: t('status.demoModel')};
  return {...UNKNOWN, state: 'off', detail: t('status.notRunning')};
}

function giveHint({problem, isLoggedIn, reachability, server, proxy, desktops}: Connection, best: Desktop | null): string {
  if (problem) return problem.message;
  if (reachability !== 'ok') return '';
  if (!isLoggedIn) return t('status.logInToSee');
  if (server?.role !== 'desktop') {
    if (proxy && proxy.state !== 'running') return proxy.error ?? (proxy.state === 'absent' ? t('status.proxyStarts') : '');
    if (desktops && !best) return t('status.noDesktop');
  }
  return best?.ollama === 'down' ? t('status.ollamaDown', {name: best.name}) : '';
}
