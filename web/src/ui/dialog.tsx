/** A modal dialog: the browser keeps the focus in it, and gives it back when the dialog is gone. */
import {useSignal} from '@preact/signals';
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

const FOCUSABLE = 'a, button, input, select, textarea, summary, [tabindex]';

/** Is open for as long as it is rendered. The element with `autofocus` has the focus first. */
export function Dialog({title, onClose, children, footer, id, closesOutside = true, ...rest}: DialogProperties): VNode {
  const dialog = useRef<HTMLDialogElement>(null);
  const body = useRef<HTMLDivElement>(null);
  const titleId = useId();
  const isTextOnly = useSignal(false);
  useLayoutEffect(() => {
    const element = dialog.current;
    if (!element) return;
    element.showModal();
    return () => element.close();
  }, []);
  useLayoutEffect(() => { isTextOnly.value = body.current?.querySelector(FOCUSABLE) === null; });
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
        {/* What has nothing to focus must be scrolled with the keyboard, too. */}
        <div ref={body} class="dialog-body" {...(isTextOnly.value ? {tabIndex: 0, role: 'group', 'aria-labelledby': titleId} : {})}>{children}</div>
        {footer && <footer class="buttons">{footer}</footer>}
      </div>
    </dialog>
  );
}
