/** What a person has typed and not sent: kept for each conversation, in this tab. */
import {readValue, writeValue} from '../session/browser-values';

/** Returns the draft of a conversation; '' is a new one. */
export function readDraft(conversation: string): string {
  return readValue('tab', `draft.${conversation}`) ?? '';
}

export function writeDraft(conversation: string, text: string): void {
  writeValue('tab', `draft.${conversation}`, text);
}
