/** A component whose module is loaded when it is first shown. */
import {useSignal} from '@preact/signals';
import {useEffect} from 'preact/hooks';
import type {ComponentType, VNode} from 'preact';

interface LazyModule {
  readonly default: ComponentType;
}

/** Shows the default export of the module that `load` imports; nothing until it is loaded. */
export function Lazy({load}: {readonly load: () => Promise<LazyModule>}): VNode | null {
  const loaded = useSignal<ComponentType | null>(null);
  useEffect(() => {
    let isCurrent = true;
    void load().then(module => { if (isCurrent) loaded.value = module.default; });
    return () => { isCurrent = false; };
  }, [load]);
  const Component = loaded.value;
  return Component ? <Component /> : null;
}
