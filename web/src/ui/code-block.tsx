/** Lines to copy: for a shell, or for a file. */
import type {VNode} from 'preact';
import {CopyButton} from './copy-button';
import './code-block.css';

interface CodeBlockProperties {
  readonly text: string;
  /** What it is, for screen readers. */
  readonly label: string;
}

export function CodeBlock({text, label}: CodeBlockProperties): VNode {
  return (
    <div class="code-block" role="group" aria-label={label}>
      <pre tabIndex={0}>{text}</pre>
      <CopyButton text={text} showsWord />
    </div>
  );
}
