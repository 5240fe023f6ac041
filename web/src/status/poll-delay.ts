/** When to poll again. */

const POLL_SECONDS = 4;
const MAX_DELAY_SECONDS = 32;

/** Returns the seconds to the next poll after `failures` in a row; the server may have said when to retry. */
export function nextDelaySeconds(failures: number, retryAfter: number): number {
  const backoff = Math.min(POLL_SECONDS * 2 ** Math.max(0, failures - 1), MAX_DELAY_SECONDS);
  return Math.max(backoff, retryAfter);
}
