/** Keeps the focus on the page: what has it may be removed or disabled, and a screen reader would begin at the top again.
 *
 * Whoever removes something knows best where the focus belongs, and moves it. This is for what nobody has moved.
 */

/** What a screen reader can say the name of, or what can have the focus anyway. */
const PLACES = 'dialog[open], section, nav, main, [role=region], [role=tabpanel], [tabindex]';

/** Moves a focus that is lost to what was around it, until the returned function is called. */
export function keepFocus(fallback: HTMLElement): () => void {
  /** What has the focus, and all that is around it. */
  let chain: readonly Element[] = [];
  const remember = ({target}: FocusEvent): void => { chain = target instanceof Element ? ancestors(target) : []; };
  const forget = (): void => { chain = []; }; // who clicks beside everything wants the focus nowhere
  const restore = (): void => {
    const [focused, ...around] = chain;
    const active = document.activeElement;
    if (!focused || isUsable(focused) || (active !== document.body && active !== focused)) return;
    const place = around.find(each => each.matches(PLACES) && isUsable(each));
    focusPlace(place instanceof HTMLElement ? place : fallback);
  };
  const observer = new MutationObserver(records => {
    restore();
    if (records.some(({type}) => type === 'attributes')) requestAnimationFrame(restore); // the browser takes it away by then
  });
  observer.observe(document.body, {childList: true, subtree: true, attributeFilter: ['disabled', 'hidden']});
  addEventListener('focusin', remember);
  addEventListener('pointerdown', forget, true);
  return () => {
    observer.disconnect();
    removeEventListener('focusin', remember);
    removeEventListener('pointerdown', forget, true);
  };
}

function ancestors(element: Element): readonly Element[] {
  const found: Element[] = [];
  for (let each: Element | null = element; each && each !== document.body; each = each.parentElement) found.push(each);
  return found;
}

/** Whether an element is there, and can have the focus. */
function isUsable(element: Element): boolean {
  return element.isConnected && !element.matches(':disabled') && element.closest('[hidden]') === null;
}

function focusPlace(place: HTMLElement): void {
  if (!place.hasAttribute('tabindex')) place.tabIndex = -1;
  place.focus({preventScroll: true});
}
