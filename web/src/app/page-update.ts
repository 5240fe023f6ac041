/** The service worker: with it the page opens without a network, and learns that there is a new version. */
import {signal} from '@preact/signals';
import {trustScript} from './trusted-script';

/** Whether the server has a newer version of this page. */
export const isUpdateReady = signal(false);

const CHECK_MS = 60 * 60 * 1000;

/** Registers the service worker and asks for new versions; returns how to stop asking. `entry` is the script of the page. */
export function watchUpdates(entry: string): () => void {
  const container = navigator.serviceWorker as ServiceWorkerContainer | undefined; // absent without HTTPS
  if (!container) return () => undefined;
  let registration: ServiceWorkerRegistration | null = null;
  const check = (): void => {
    // Without a network there is nothing new.
    if (!document.hidden) void registration?.update().catch(() => undefined);
  };
  const compare = (): void => void isOfController(container, entry).then(isSame => { isUpdateReady.value = !isSame; });
  void container.register(trustScript('/service-worker.js'), {updateViaCache: 'none'}).then(
    registered => { registration = registered; compare(); },
    () => undefined, // a browser may forbid it: then the page needs the network
  );
  const timer = setInterval(check, CHECK_MS);
  container.addEventListener('controllerchange', compare);
  document.addEventListener('visibilitychange', check);
  return () => {
    clearInterval(timer);
    container.removeEventListener('controllerchange', compare);
    document.removeEventListener('visibilitychange', check);
  };
}

/** Returns whether the worker that controls the page is of its version; true without one. */
async function isOfController(container: ServiceWorkerContainer, entry: string): Promise<boolean> {
  const {controller} = container;
  if (!controller) return true;
  return new Promise(resolve => {
    const {port1, port2} = new MessageChannel();
    port1.onmessage = ({data}: MessageEvent<unknown>) => {
      port1.close();
      resolve(data === true);
    };
    controller.postMessage(new URL(entry).pathname, [port2]);
  });
}
