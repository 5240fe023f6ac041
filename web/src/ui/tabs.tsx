/** Tabs: one of several panels is shown. */
import type {ComponentChildren, VNode} from 'preact';
import {useId, useRef} from 'preact/hooks';
import {Icon, type IconName} from './icon';
import {nextIndex} from './menu';
import './ui.css';

export interface Tab<Name extends string> {
  readonly name: Name;
  readonly label: string;
  readonly icon?: IconName;
}

interface TabsProperties<Name extends string> {
  /** What the tabs choose, for screen readers. */
  readonly label: string;
  readonly tabs: readonly Tab<Name>[];
  readonly selected: Name;
  readonly onSelect: (name: Name) => void;
  /** The panel of the selected tab. */
  readonly children: ComponentChildren;
}

/** The keys of the next and the previous tab, where text runs from right to left. */
const MIRRORED: Readonly<Record<string, string>> = {ArrowLeft: 'ArrowRight', ArrowRight: 'ArrowLeft'};

export function Tabs<Name extends string>({label, tabs, selected, onSelect, children}: TabsProperties<Name>): VNode {
  const id = useId();
  const list = useRef<HTMLDivElement>(null);
  const onKeyDown = (event: KeyboardEvent): void => {
    const key = list.current?.matches(':dir(rtl)') ? (MIRRORED[event.key] ?? event.key) : event.key;
    const next = nextIndex(key, tabs.findIndex(({name}) => name === selected), tabs.length);
    const tab = next === null ? undefined : tabs[next];
    if (next === null || !tab) return;
    event.preventDefault();
    onSelect(tab.name);
    list.current?.querySelectorAll<HTMLElement>('[role=tab]')[next]?.focus();
  };
  return (
    <div class="tabs">
      <div ref={list} role="tablist" aria-label={label} onKeyDown={onKeyDown}>
        {tabs.map(({name, label: text, icon}) => (
          <button
            key={name}
            type="button"
            role="tab"
            id={`${id}-${name}`}
            class="plain with-icon"
            aria-selected={name === selected}
            aria-controls={`${id}-panel`}
            tabIndex={name === selected ? 0 : -1}
            onClick={() => onSelect(name)}
          >
            {icon && <Icon name={icon} />}{text}
          </button>
        ))}
      </div>
      <div role="tabpanel" id={`${id}-panel`} class="tab-panel" aria-labelledby={`${id}-${selected}`} tabIndex={0}>{children}</div>
    </div>
  );
}
