/** What somebody is writing, over a reload of the page. An answer that runs goes on by itself: the desktop runs it. */
import {formatRoute, route} from './router';

const KEY = 'ctllm-draft';

/** Reloads the page and keeps the message that is being written. */
export function reloadWithDraft(): void {
  const box = findBox();
  try {
    if (box?.value) sessionStorage.setItem(KEY, JSON.stringify([formatRoute(route.value), box.value]));
  } catch {
    return; // nothing can be kept, so the person decides when to reload
  }
  location.reload();
}

/** Puts the message back that was being written. Call it when the box for it is there. */
export function restoreDraft(): void {
  try {
    const stored: unknown = JSON.parse(sessionStorage.getItem(KEY) ?? 'null');
    if (!Array.isArray(stored)) return;
    const box = findBox();
    const [shown, text] = stored as readonly unknown[];
    if (!box || shown !== formatRoute(route.value) || typeof text !== 'string') return;
    sessionStorage.removeItem(KEY);
    if (box.value) return;
    box.value = text;
    box.dispatchEvent(new Event('input', {bubbles: true})); // for the component that has the box
  } catch {
    // Nothing was kept.
  }
}

function findBox(): HTMLTextAreaElement | null {
  const box = document.getElementById('message');
  return box instanceof HTMLTextAreaElement ? box : null;
}
