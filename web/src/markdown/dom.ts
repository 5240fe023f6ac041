/** Makes elements without any HTML. */

type Child = Node | string;

/** Returns a new element with a class, and these children. */
export function element<K extends keyof HTMLElementTagNameMap>(tag: K, className = '', ...children: readonly Child[]): HTMLElementTagNameMap[K] {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

/** Returns a button that calls `act`. */
export function button(className: string, label: string, act: () => void): HTMLButtonElement {
  const made = element('button', className, label);
  made.type = 'button';
  made.addEventListener('click', act);
  return made;
}
