/** Buttons with an icon. */
import type {ComponentChildren, VNode} from 'preact';
import {Icon, type IconName} from './icon';
import './ui.css';

export interface ButtonProperties {
  readonly onClick?: (event: MouseEvent) => void;
  readonly icon?: IconName;
  /** `main` for the one thing to do, `danger` for what cannot be undone, `plain` without a border. */
  readonly kind?: 'main' | 'danger' | 'plain' | 'normal';
  readonly type?: 'button' | 'submit';
  readonly disabled?: boolean;
  /** Whether what it started is in progress: it keeps the focus, and does nothing. */
  readonly busy?: boolean;
  /** For screen readers, where its text says too little. */
  readonly label?: string;
  /** The id of the form that it submits, if it is not in it. */
  readonly form?: string;
  readonly id?: string;
  readonly class?: string;
  readonly children?: ComponentChildren;
}

export function Button({kind = 'normal', type = 'button', icon, busy = false, label, onClick, children, ...rest}: ButtonProperties): VNode {
  return (
    <button
      {...rest}
      type={type}
      class={`${kind} ${icon ? 'with-icon' : ''} ${rest.class ?? ''}`}
      aria-label={label}
      aria-disabled={busy || undefined}
      onClick={event => {
        if (busy) event.preventDefault();
        else onClick?.(event);
      }}
    >
      {icon && <Icon name={icon} />}
      {children}
    </button>
  );
}

interface IconButtonProperties {
  readonly icon: IconName;
  /** What it does, for screen readers and as a tooltip. */
  readonly label: string;
  readonly onClick?: (event: MouseEvent) => void;
  readonly disabled?: boolean;
  /** For a button that is on or off. */
  readonly pressed?: boolean;
  readonly id?: string;
  readonly class?: string;
}

/** A button that shows its icon only. */
export function IconButton({icon, label, pressed, ...rest}: IconButtonProperties): VNode {
  return (
    <button {...rest} type="button" class={`plain icon-button ${rest.class ?? ''}`} aria-label={label} title={label} aria-pressed={pressed}>
      <Icon name={icon} />
    </button>
  );
}
