/** The frame of a view that is no chat: a title, and sections in a column. */
import type {ComponentChildren, VNode} from 'preact';
import {useId} from 'preact/hooks';
import './view.css';

interface ViewProperties {
  readonly id: string;
  readonly title: string;
  /** Beside the title. */
  readonly actions?: ComponentChildren;
  readonly children: ComponentChildren;
}

export function View({id, title, actions, children}: ViewProperties): VNode {
  const titleId = useId();
  return (
    <section id={id} class="view-content" aria-labelledby={titleId}>
      <header class="view-header"><h1 id={titleId}>{title}</h1>{actions}</header>
      {children}
    </section>
  );
}

interface SectionProperties {
  readonly title: string;
  readonly explanation?: ComponentChildren;
  readonly actions?: ComponentChildren;
  readonly id?: string;
  readonly children: ComponentChildren;
}

/** A part of a view, with a heading. */
export function Section({title, explanation, actions, id, children}: SectionProperties): VNode {
  const titleId = useId();
  return (
    <section class="section sheet" {...(id ? {id} : {})} aria-labelledby={titleId}>
      <header class="view-header"><h2 id={titleId}>{title}</h2>{actions}</header>
      {explanation && <p class="soft">{explanation}</p>}
      {children}
    </section>
  );
}

/** Terms and their values; those without a value are left out. */
export function Facts({facts}: {readonly facts: readonly (readonly [string, ComponentChildren])[]}): VNode {
  const known = facts.filter(([, value]) => value !== null && value !== undefined && value !== '');
  return <dl class="facts">{known.map(([term, value]) => <div key={term}><dt>{term}</dt><dd>{value}</dd></div>)}</dl>;
}
