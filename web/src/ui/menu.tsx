/** A button that opens a menu of actions. */
import {useSignal} from '@preact/signals';
import type {VNode} from 'preact';
import {useId, useLayoutEffect, useRef} from 'preact/hooks';
import {Icon, type IconName} from './icon';
import './ui.css';

export interface MenuItem {
  readonly label: string;
  readonly onSelect: () => void;
  readonly icon?: IconName;
  readonly isDangerous?: boolean;
  readonly disabled?: boolean;
}

interface MenuProperties {
  /** What the menu is for, for screen readers and as a tooltip. */
  readonly label: string;
  readonly items: readonly MenuItem[];
  readonly icon?: IconName;
  readonly id?: string;
}

const MARGIN = 8;

/** Returns where a menu of that size fits beside its button, at whose end it ends; all in CSS pixels of the window. */
export function placeMenu(
  button: {readonly left: number; readonly right: number; readonly top: number; readonly bottom: number},
  menu: {readonly width: number; readonly height: number},
  area: {readonly width: number; readonly height: number},
  isRightToLeft = false,
): {readonly left: number; readonly top: number} {
  const below = button.bottom + 4;
  const above = button.top - 4 - menu.height;
  const top = below + menu.height + MARGIN <= area.height || above < MARGIN ? below : above;
  const rightmost = area.width - menu.width - MARGIN;
  return {
    left: Math.max(MARGIN, Math.min(isRightToLeft ? button.left : button.right - menu.width, rightmost)),
    top: Math.max(MARGIN, Math.min(top, area.height - menu.height - MARGIN)),
  };
}

export function Menu({label, items, icon = 'more', id}: MenuProperties): VNode {
  const isOpen = useSignal(false);
  const button = useRef<HTMLButtonElement>(null);
  const menuId = useId();
  const close = (hadFocus = true): void => {
    isOpen.value = false;
    if (hadFocus) button.current?.focus();
  };
  return (
    <>
      <button
        ref={button}
        {...(id ? {id} : {})}
        type="button"
        class="plain icon-button"
        aria-label={label}
        title={label}
        aria-haspopup="menu"
        aria-expanded={isOpen.value}
        aria-controls={isOpen.value ? menuId : undefined}
        onClick={() => { isOpen.value = !isOpen.value; }}
        onKeyDown={event => {
          if (event.key !== 'ArrowDown') return;
          event.preventDefault();
          isOpen.value = true;
        }}
      >
        <Icon name={icon} />
      </button>
      {isOpen.value && <MenuList id={menuId} label={label} items={items} button={button.current} onClose={close} />}
    </>
  );
}

interface MenuListProperties {
  readonly id: string;
  readonly label: string;
  readonly items: readonly MenuItem[];
  readonly button: HTMLElement | null;
  readonly onClose: (hadFocus?: boolean) => void;
}

function MenuList({id, label, items, button, onClose}: MenuListProperties): VNode {
  const list = useRef<HTMLUListElement>(null);
  useLayoutEffect(() => {
    const element = list.current;
    if (!element || !button) return;
    element.showPopover(); // above dialogs, and outside of what scrolls
    const {left, top} = placeMenu(button.getBoundingClientRect(), element.getBoundingClientRect(), {width: innerWidth, height: innerHeight}, button.matches(':dir(rtl)'));
    element.style.left = `${left}px`;
    element.style.top = `${top}px`;
    enabledItems(element)[0]?.focus();
    const onOutside = (event: Event): void => {
      const target = event.target instanceof Node ? event.target : null;
      if (!element.contains(target) && !button.contains(target)) onClose(false);
    };
    const onMove = (): void => onClose(false);
    document.addEventListener('pointerdown', onOutside, true);
    addEventListener('resize', onMove);
    document.addEventListener('scroll', onOutside, true);
    return () => {
      document.removeEventListener('pointerdown', onOutside, true);
      removeEventListener('resize', onMove);
      document.removeEventListener('scroll', onOutside, true);
    };
  }, []);
  return (
    <ul
      ref={list}
      id={id}
      role="menu"
      class="menu sheet"
      aria-label={label}
      popover="manual"
      onKeyDown={event => onMenuKey(event, onClose)}
      onFocusOut={event => {
        if (event.relatedTarget instanceof Node && !event.currentTarget.contains(event.relatedTarget) && event.relatedTarget !== button) onClose(false);
      }}
    >
      {items.map(({label: text, icon, isDangerous, disabled, onSelect}) => (
        <li role="none" key={text}>
          <button
            type="button"
            role="menuitem"
            tabIndex={-1}
            class={`plain with-icon ${isDangerous ? 'dangerous' : ''}`}
            disabled={disabled ?? false}
            onClick={() => { onClose(); onSelect(); }}
          >
            {icon && <Icon name={icon} />}{text}
          </button>
        </li>
      ))}
    </ul>
  );
}

function enabledItems(list: HTMLElement): readonly HTMLButtonElement[] {
  return [...list.querySelectorAll<HTMLButtonElement>('[role=menuitem]:not(:disabled)')];
}

function onMenuKey(event: KeyboardEvent, onClose: () => void): void {
  if (event.key === 'Escape' || event.key === 'Tab') {
    event.preventDefault();
    event.stopPropagation();
    onClose();
    return;
  }
  const list = event.currentTarget;
  if (!(list instanceof HTMLElement)) return;
  const next = nextIndex(event.key, enabledItems(list).findIndex(each => each === document.activeElement), enabledItems(list).length);
  if (next === null) return;
  event.preventDefault();
  enabledItems(list)[next]?.focus();
}

/** Returns the index that a key leads to in a list of `count` elements; null for other keys. */
export function nextIndex(key: string, index: number, count: number): number | null {
  if (count === 0) return null;
  switch (key) {
    case 'ArrowDown':
    case 'ArrowRight':
      return (index + 1) % count;
    case 'ArrowUp':
    case 'ArrowLeft':
      return (index - 1 + count) % count;
    case 'Home':
      return 0;
    case 'End':
      return count - 1;
    default:
      return null;
  }
}
