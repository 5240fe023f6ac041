/** Work in tasks of its own, so that no task keeps the page from responding for long. */

/** How long a page that nobody sees waits, in milliseconds: it has no frames. */
const HIDDEN_MS = 50;
/** When a browser that does not say so is taken to have nothing to do, in milliseconds. */
const IDLE_MS = 2_000;

/** Calls `work` in the next task; returns what cancels that. Unlike a timer, it is not delayed by 4 ms. */
function postTask(work: () => void): () => void {
  const {port1, port2} = new MessageChannel();
  port2.onmessage = () => {
    port2.close();
    work();
  };
  port1.postMessage(null);
  return () => port2.close();
}

/** Calls `work` right after the next frame was painted; returns what cancels that.
 *
 * The browser computes styles and layout of what `work` changes with the frame after that, in another task: so
 * neither of the two keeps the page from responding for long.
 */
export function afterFrame(work: () => void): () => void {
  if (document.visibilityState === 'hidden') {
    const timer = setTimeout(work, HIDDEN_MS);
    return () => clearTimeout(timer);
  }
  let cancel = (): void => {};
  const frame = requestAnimationFrame(() => { cancel = postTask(work); });
  return () => {
    cancelAnimationFrame(frame);
    cancel();
  };
}

/** Calls `work` when there is nothing else to be done; returns what cancels that. */
export function whenIdle(work: () => void): () => void {
  if (typeof requestIdleCallback === 'undefined') { // Safari
    const timer = setTimeout(work, IDLE_MS);
    return () => clearTimeout(timer);
  }
  const handle = requestIdleCallback(work);
  return () => cancelIdleCallback(handle);
}

/** Lets the page respond, and paint, before what follows. */
export function nextTask(): Promise<void> {
  return new Promise(resolve => void postTask(resolve));
}
