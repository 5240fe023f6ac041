/** What a component reads when it is shown. */
import {useSignal} from '@preact/signals';
import {useEffect} from 'preact/hooks';
import {RequestError} from '../api/http';

/** Calls `read` when the component is shown and when a dependency changes; returns what went wrong: a sentence, or ''. */
export function useLoad(read: (signal: AbortSignal) => Promise<void>, dependencies: readonly unknown[] = []): string {
  const error = useSignal('');
  useEffect(() => {
    const controller = new AbortController();
    error.value = '';
    read(controller.signal).catch((reason: unknown) => {
      if (controller.signal.aborted) return;
      if (!(reason instanceof RequestError)) throw reason;
      error.value = reason.message;
    });
    return () => controller.abort();
  }, dependencies);
  return error.value;
}
