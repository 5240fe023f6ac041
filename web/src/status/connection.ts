/** The path of the connection of this page. */
import {computed} from '@preact/signals';
import {isLoggedIn} from '../session/session';
import {describePath} from './path';
import * as store from './status-store';

export const path = computed(() => describePath({
  isOnline: store.isOnline.value,
  reachability: store.reachability.value,
  server: store.pageServer.value,
  latency: store.latency.value,
  isLoggedIn: isLoggedIn.value,
  proxy: store.proxy.value,
  isProxyUnknown: store.isProxyUnknown.value,
  desktops: store.desktops.value,
  problem: store.problem.value,
}));
