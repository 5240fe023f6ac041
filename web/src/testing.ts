/** Help for all tests. */
import {vi} from 'vitest';

/** Waits until a check no longer throws; the time is for a machine that is busy. */
export async function until(check: () => unknown): Promise<void> {
  await vi.waitFor(check, {timeout: 30_000});
}
