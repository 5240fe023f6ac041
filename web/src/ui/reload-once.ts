/** Reloads the page when a part of it is missing, and not again if it is still missing then. */

const KEY = 'ctllm-reloaded';

/** Reloads the page; returns false if that has been done already, is of no use, or loses what somebody has written. */
export function reloadOnce(): boolean {
  try {
    if (!navigator.onLine || hasDraft() || sessionStorage.getItem(KEY)) return false;
    sessionStorage.setItem(KEY, '1');
  } catch {
    return false; // without a memory it might reload for ever
  }
  location.reload();
  return true;
}

/** Notes that a part has been loaded: the next one that is missing may reload the page again. */
export function forgetReload(): void {
  try {
    sessionStorage.removeItem(KEY);
  } catch {
    // Nothing was stored.
  }
}

/** Whether somebody has written a message, or attached a file, that is not sent. */
export function hasDraft(): boolean {
  const box = document.getElementById('message');
  const hasText = box instanceof HTMLTextAreaElement && box.value.trim() !== '';
  return hasText || document.querySelector('#composer .attachments') !== null;
}
