/** Links and images in answers. None loads anything before somebody opens it, and each shows where it leads. */
import {t} from '../i18n/i18n';
import {isMisleading, namesHost, type Address} from './address';
import {button, element} from './dom';
import {visibleText} from './visible-text';

/** Returns an element around `content` that opens an address in another tab. */
export function makeLink(address: Address, content: Node): HTMLElement {
  const link = makeAnchor(address);
  link.append(content);
  const whole = element('span', 'link', link);
  labelLink(whole, link, address);
  return whole;
}

/** Adds to a link where it leads, according to its text. */
function labelLink(whole: HTMLElement, link: HTMLAnchorElement, address: Address): void {
  const text = link.textContent;
  if (isMisleading(text, address)) whole.append(element('strong', 'misleading', t('markdown.leadsTo', {host: address.host})));
  else if (!namesHost(text, address)) whole.append(element('bdi', 'host', address.host));
}

function makeAnchor(address: Address): HTMLAnchorElement {
  const link = element('a');
  link.href = address.href;
  link.target = '_blank';
  link.rel = 'noopener noreferrer';
  link.referrerPolicy = 'no-referrer';
  link.title = address.href;
  return link;
}

/** Returns what is shown in place of an image: its description, and on demand its whole address and a link to it. */
export function makeImage(alt: string, address: Address): HTMLElement {
  const whole = element('span', 'image');
  const details = element('span', 'image-details');
  details.hidden = true;
  const open = button('image-open', t('markdown.showImage'), () => {
    details.hidden = !details.hidden;
    open.setAttribute('aria-expanded', String(!details.hidden));
    if (!details.hidden && !details.firstChild) explain(details, address);
  });
  open.setAttribute('aria-expanded', 'false');
  const name = element('span', 'image-name', visibleText(alt) || t('markdown.image'));
  name.dir = 'auto';
  whole.append(name, element('bdi', 'host', address.host), open, details);
  return whole;
}

function explain(details: HTMLElement, address: Address): void {
  const link = makeAnchor(address);
  link.append(t('markdown.openImage'));
  details.append(t('markdown.imageReveals', {host: address.host}), element('code', 'address', address.href), link);
}
