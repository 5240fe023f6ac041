/** A Markdown text, such as an answer of a model. */
import type {VNode} from 'preact';
import {useLayoutEffect, useRef} from 'preact/hooks';
import type {GrowingText} from './growing-text';
import {MarkdownRenderer} from './renderer';
import {formatter} from './worker-formatter';
import './markdown.css';

interface MarkdownProperties {
  readonly text: string;
  /** Whether more text will follow. It is shown at most once a frame then. */
  readonly isStreaming?: boolean;
  /** What the text is the beginning of, if it comes from something that is only appended to: then it costs less. */
  readonly source?: GrowingText | undefined;
  /** Is called after something of it has been rendered, for example to scroll. */
  readonly onRender?: () => void;
}

/** Shows `text`, which is hostile: no HTML in it, nothing that is loaded by itself.
 *
 * Text that is appended costs only what is new: blocks that are finished are never rendered again.
 */
export function Markdown({text, isStreaming = false, source, onRender}: MarkdownProperties): VNode {
  const host = useRef<HTMLDivElement>(null);
  const renderer = useRef<MarkdownRenderer | null>(null);
  const listener = useRef(onRender);
  listener.current = onRender;
  useLayoutEffect(() => () => {
    renderer.current?.dispose();
    renderer.current = null;
  }, []);
  useLayoutEffect(() => {
    if (!host.current) return;
    renderer.current ??= new MarkdownRenderer(host.current, {formatter, onRender: () => listener.current?.()});
    renderer.current.show(text, {isStreaming, source});
  }, [text, isStreaming]);
  return <div class="markdown" ref={host} />;
}
