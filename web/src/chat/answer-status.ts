/** What is said of an answer in progress. */
import type {TextKey} from '../i18n/i18n';
import type {Answer} from './answer';

/** Returns the sentence for how far an answer is; reads its signals. */
export function describeProgress(answer: Answer): TextKey {
  switch (answer.phase.value) {
    case 'waiting':
    case 'checking':
      return 'chat.reconnecting';
    case 'postponed':
      return 'chat.notSent';
    default:
      if (answer.content.value !== '') return 'chat.receiving';
      return answer.thinking.value === '' ? 'chat.waiting' : 'chat.isThinking';
  }
}
