/** Which tab reads an answer that only the tab that asked for it can read. */

const NAME = 'ctllm-answer-';

/** Tells the other tabs that this one reads an answer; returns what ends that. Closing the tab ends it, too. */
export function holdAnswer(message: string): () => void {
  const locks = lockManager();
  if (!locks) return () => {};
  let release: () => void = () => {};
  const held = new Promise<void>(resolve => { release = resolve; });
  locks.request(NAME + message, () => held).catch(() => {}); // of use for other tabs only
  return release;
}

/** Whether a tab of this browser reads an answer. Without HTTPS nobody knows: then not. */
export async function isHeld(message: string): Promise<boolean> {
  const locks = lockManager();
  if (!locks) return false;
  return locks.request(NAME + message, {ifAvailable: true}, lock => Promise.resolve(lock === null));
}

function lockManager(): LockManager | undefined {
  return navigator.locks as LockManager | undefined; // undefined without HTTPS, whatever its type says
}
