/** Says why what the person wants is not sent, and what to do. */
import type {VNode} from 'preact';
import {t} from '../i18n/i18n';
import {wanted} from './chat-store';
import type {AnswerObstacle, Obstacle} from './sending';

/** About a message. */
export function SendNotice({held}: {readonly held: Obstacle | null}): VNode | null {
  return held && <Notice text={t(`chat.held.${held}`, {model: wanted.value.model})} />;
}

/** About another answer, or the rest of one. */
export function AnswerNotice({held}: {readonly held: AnswerObstacle | null}): VNode | null {
  return held && <Notice text={t(`chat.notAsked.${held}`, {model: wanted.value.model})} />;
}

function Notice({text}: {readonly text: string}): VNode {
  return <p class="send-notice soft" role="status">{text}</p>;
}
