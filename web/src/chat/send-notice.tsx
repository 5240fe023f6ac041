/** Says why a message that the person wants to send is not sent. */
import type {VNode} from 'preact';
import {t} from '../i18n/i18n';
import {wanted} from './chat-store';
import type {Obstacle} from './sending';

export function SendNotice({held}: {readonly held: Obstacle | null}): VNode | null {
  if (held === null) return null;
  return <p class="send-notice soft" role="status">{t(`chat.held.${held}`, {model: wanted.value.model})}</p>;
}
