/** The time, for what is shown as seen from now. */
import {useSignal} from '@preact/signals';
import {useEffect} from 'preact/hooks';

/** Returns the time (epoch milliseconds) of this rendering, which is repeated at that interval; null: not repeated. */
export function useNow(intervalMs: number | null): number {
  const ticks = useSignal(0);
  useEffect(() => {
    if (intervalMs === null) return;
    const timer = setInterval(() => { ticks.value += 1; }, intervalMs);
    return () => clearInterval(timer);
  }, [intervalMs]);
  void ticks.value;
  return Date.now();
}
