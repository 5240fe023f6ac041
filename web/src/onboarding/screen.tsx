/** A screen with one thing to do. */
import type {ComponentChildren, VNode} from 'preact';

interface ScreenProperties {
  readonly id: string;
  readonly title: string;
  readonly children: ComponentChildren;
}

export function Screen({id, title, children}: ScreenProperties): VNode {
  return (
    <section id={id} class="screen" aria-labelledby={`${id}-title`}>
      <h1 id={`${id}-title`}>{title}</h1>
      {children}
    </section>
  );
}

/** Says that the page goes on by itself. */
export function Waiting({children}: {readonly children: ComponentChildren}): VNode {
  return <p class="waiting soft" role="status"><span class="pulse" aria-hidden="true" />{children}</p>;
}
