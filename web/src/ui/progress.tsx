/** A bar that shows how much of something is done. */
import type {VNode} from 'preact';
import './ui.css';

interface ProgressProperties {
  /** What is in progress, for screen readers. */
  readonly label: string;
  /** From 0 to 1; null while it is not known. */
  readonly value: number | null;
}

export function Progress({label, value}: ProgressProperties): VNode {
  return <progress aria-label={label} max={1} {...(value === null ? {} : {value: Math.max(0, Math.min(1, value))})} />;
}
