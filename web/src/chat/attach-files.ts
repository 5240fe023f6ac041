/** Adds files to the draft of a conversation, whatever is shown meanwhile. */
import {t} from '../i18n/i18n';
import {userId} from '../session/session';
import {showToast} from '../ui/toast';
import {AttachmentError, MAX_ATTACHMENTS, readAttachment} from './attachments';
import {attachmentDraft, beginReading, setAttachments} from './drafts';

/** Reads files, and attaches them one by one; says so, and calls `onRefusal`, if one cannot be. */
export async function attachFiles(conversation: string, files: Iterable<File>, onRefusal: () => void): Promise<void> {
  const end = beginReading(conversation);
  const owner = userId.peek();
  const isOwner = (): boolean => userId.peek() === owner;
  try {
    for (const file of files) if (isOwner()) await attach(conversation, file, isOwner);
  } catch (error) {
    if (!(error instanceof AttachmentError)) throw error;
    if (!isOwner()) return;
    onRefusal();
    showToast(t(`chat.${error.refusal}`, {name: error.file, count: MAX_ATTACHMENTS}), 'error');
  } finally {
    end();
  }
}

async function attach(conversation: string, file: File, isOwner: () => boolean): Promise<void> {
  const isFull = (): boolean => attachmentDraft(conversation).peek().attachments.length >= MAX_ATTACHMENTS;
  if (isFull()) throw new AttachmentError('tooMany', file.name);
  const attachment = await readAttachment(file);
  if (!isOwner()) return;
  if (isFull()) throw new AttachmentError('tooMany', file.name); // another choice was read meanwhile
  setAttachments(conversation, [...attachmentDraft(conversation).peek().attachments, attachment]);
}
