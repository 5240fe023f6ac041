/** The clipboard, also on pages without HTTPS, where the browser has no API for it. */

/** Copies a text; returns whether that worked. Call it in a handler of a click. */
export async function copyText(text: string): Promise<boolean> {
  // Undefined without HTTPS, whatever its type says.
  const clipboard = navigator.clipboard as Clipboard | undefined;
  try {
    if (clipboard) {
      await clipboard.writeText(text);
      return true;
    }
  } catch {
    // The browser forbids it, for example in a frame without focus; the selection may be copied still.
  }
  return copySelection(text);
}

function copySelection(text: string): boolean {
  const focused = document.activeElement;
  const area = document.createElement('textarea');
  area.value = text;
  area.readOnly = true;
  area.className = 'visually-hidden';
  (document.querySelector('dialog[open]') ?? document.body).append(area);
  area.select();
  try {
    return document.execCommand('copy');
  } finally {
    area.remove();
    if (focused instanceof HTMLElement) focused.focus();
  }
}
