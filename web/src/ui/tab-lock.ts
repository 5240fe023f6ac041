/** Which tab reads a response that only the tab that asked for it can read. */

/** Tells the other tabs that this one reads it; returns what ends that. Closing the tab ends it, too. */
export function holdInTab(name: string): () => void {
  const locks = lockManager();
  if (!locks) return () => {};
  let release: () => void = () => {};
  const held = new Promise<void>(resolve => { release = resolve; });
  locks.request(name, () => held).catch(() => {}); // of use for other tabs only
  return release;
}

/** Whether a tab of this browser reads it. Without HTTPS nobody knows: then not. */
export async function isHeldByTab(name: string): Promise<boolean> {
  const locks = lockManager();
  if (!locks) return false;
  return locks.request(name, {ifAvailable: true}, lock => Promise.resolve(lock === null));
}

function lockManager(): LockManager | undefined {
  return navigator.locks as LockManager | undefined; // undefined without HTTPS, whatever its type says
}
