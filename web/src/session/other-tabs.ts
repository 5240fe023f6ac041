/** The other tabs of this browser: they learn who has logged in or out. */

let channel: BroadcastChannel | null = null;

/** Calls `onChange` with the id of whoever has logged in in another tab, or null; returns how to stop that. */
export function watchTabs(onChange: (id: string | null) => void): () => void {
  const opened = new BroadcastChannel('ctllm');
  opened.onmessage = ({data}: MessageEvent<unknown>) => {
    if (data === null || typeof data === 'string') onChange(data);
  };
  channel = opened;
  return () => {
    opened.close();
    if (channel === opened) channel = null;
  };
}

/** Tells the other tabs who is logged in; null for nobody. */
export function announceUser(id: string | null): void {
  channel?.postMessage(id);
}
