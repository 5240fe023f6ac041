/** A modal dialog: the browser keeps the focus in it, and gives it back when the dialog is gone. */
import type {ComponentChildren, VNode} from 'preact';
import {useId, useLayoutEffect, useRef} from 'preact/hooks';
import {t} from '../i18n/i18n';
import {IconButton} from './button';
import './ui.css';

interface DialogProperties {
  readonly title: string;
  /** Called when it was left with Escape, its close button, or a click outside. Then stop rendering it. */
  readonly onClose: () => void;
  readonly children: ComponentChildren;
  /** Buttons at its end. */
  readonly footer?: ComponentChildren;
  readonly id?: string;
  readonly class?: string;
  /** Whether a click outside closes it. Not for a form that somebody has filled in. */
  readonly closesOutside?: boolean;
}

/** Is open for as long as it is rendered. The element with `autofocus` has the focus first. */
export function Dialog({title, onClose, children, footer, id, closesOutside = true, ...rest}: DialogProperties): VNode {
  const dialog = useRef<HTMLDialogElement>(null);
  const titleId = useId();
  useLayoutEffect(() => {
    const element = dialog.current;
    if (!element) return;
    element.showModal();
    return () => element.close();
  }, []);
  return (
    <dialog
      ref={dialog}
      {...(id ? {id} : {})}
      class={`sheet dialog ${rest.class ?? ''}`}
      aria-labelledby={titleId}
      onCancel={event => {
        if (event.target !== dialog.current) return; // of a file chooser in it
        event.preventDefault();
        onClose();
      }}
      onMouseDown={event => { if (closesOutside && event.target === dialog.current) onClose(); }}
    >
      <div class="dialog-content">
        <header class="dialog-header">
          <h2 id={titleId}>{title}</h2>
          <IconButton icon="close" label={t('app.close')} onClick={onClose} />
        </header>
        <div class="dialog-body">{children}</div>
        {footer && <footer class="buttons">{footer}</footer>}
      </div>
    </dialog>
  );
}
