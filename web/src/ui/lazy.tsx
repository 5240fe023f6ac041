/** A component whose module is loaded when it is first shown. */
import {useSignal} from '@preact/signals';
import {useEffect} from 'preact/hooks';
import type {ComponentType, VNode} from 'preact';
import {t} from '../i18n/i18n';
import {forgetReload, reloadOnce} from './reload-once';

interface LazyModule {
  readonly default: ComponentType;
}

/** Shows the default export of the module that `load` imports; nothing until it is loaded.
 *
 * An update of ctllm removes the modules of the page before: then the page reloads itself, once.
 */
export function Lazy({load}: {readonly load: () => Promise<LazyModule>}): VNode | null {
  const loaded = useSignal<ComponentType | 'failed' | null>(null);
  useEffect(() => {
    let isCurrent = true;
    load().then(
      module => {
        forgetReload();
        if (isCurrent) loaded.value = module.default;
      },
      () => { if (isCurrent && !reloadOnce()) loaded.value = 'failed'; },
    );
    return () => { isCurrent = false; };
  }, [load]);
  const Component = loaded.value;
  if (Component === 'failed') return <NotLoaded />;
  return Component ? <Component /> : null;
}

function NotLoaded(): VNode {
  return (
    <section id="not-loaded" class="screen">
      <h1>{t('app.notLoaded.title')}</h1>
      <p role="alert">{t('app.notLoaded')}</p>
      <div><button type="button" class="main" onClick={() => location.reload()}>{t('app.reload')}</button></div>
    </section>
  );
}
