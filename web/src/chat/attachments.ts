/** Images and text files for a message: checked, and images made smaller. */
import type {Attachment} from '../storage/conversation';

export const MAX_ATTACHMENTS = 8;
/** The longest side of an image, in pixels. */
export const MAX_SIDE = 1536;
const MAX_IMAGE_BYTES = 40_000_000;
const MAX_TEXT_BYTES = 500_000;
const QUALITY = 0.85;
const TEXT_NAMES = /\.(txt|md|markdown|csv|tsv|json|jsonl|xml|ya?ml|toml|ini|cfg|conf|log|html?|css|s[ac]ss|[cm]?[jt]sx?|py|rb|rs|go|java|kt|swift|c|h|cc|cpp|hpp|cs|php|pl|lua|r|sql|sh|bash|zsh|ps1|bat|tex|rst|diff|patch|vue|svelte|dockerfile|makefile|env|gitignore)$/i;

/** Why a file cannot be attached. */
export type Refusal = 'tooMany' | 'imageTooLarge' | 'textTooLarge' | 'notText' | 'notReadable' | 'unknownType';

export class AttachmentError extends Error {
  constructor(readonly refusal: Refusal, readonly file: string) {
    super(refusal);
  }
}

/** Returns what a file is by its type and name. */
export function kindOf({type, name}: {readonly type: string; readonly name: string}): Attachment['kind'] | null {
  if (/^image\/(png|jpe?g|webp|gif|bmp|avif|heic|heif)$/.test(type)) return 'image';
  if (type.startsWith('text/') || type === 'application/json' || type === 'application/xml' || TEXT_NAMES.test(name)) return 'text';
  return type === '' && !/\.\w+$/.test(name) ? 'text' : null;
}

/** Reads a file; throws an AttachmentError. */
export async function readAttachment(file: File): Promise<Attachment> {
  const kind = kindOf(file);
  if (kind === 'image') return readImage(file);
  if (kind === 'text') return readTextFile(file);
  throw new AttachmentError('unknownType', file.name);
}

async function readTextFile(file: File): Promise<Attachment> {
  if (file.size > MAX_TEXT_BYTES) throw new AttachmentError('textTooLarge', file.name);
  const bytes = await file.arrayBuffer().catch(() => { throw new AttachmentError('notReadable', file.name); });
  try {
    const data = new TextDecoder('utf-8', {fatal: true}).decode(bytes);
    if (data.includes('\0')) throw new TypeError('A text has no NUL.');
    return {kind: 'text', name: file.name, type: file.type || 'text/plain', data};
  } catch {
    throw new AttachmentError('notText', file.name);
  }
}

async function readImage(file: File): Promise<Attachment> {
  if (file.size > MAX_IMAGE_BYTES) throw new AttachmentError('imageTooLarge', file.name);
  const bitmap = await createImageBitmap(file, {imageOrientation: 'from-image'}).catch(() => {
    throw new AttachmentError('notReadable', file.name);
  });
  try {
    const {width, height} = fitInto(bitmap, MAX_SIDE);
    const canvas = document.createElement('canvas');
    Object.assign(canvas, {width, height});
    const context = canvas.getContext('2d');
    if (!context) throw new AttachmentError('notReadable', file.name);
    // JPEG has no transparency: what is transparent would be black.
    const type = file.type === 'image/png' || file.type === 'image/gif' || file.type === 'image/webp' ? 'image/png' : 'image/jpeg';
    context.drawImage(bitmap, 0, 0, width, height);
    const data = canvas.toDataURL(type, QUALITY);
    return {kind: 'image', name: file.name || 'image', type, data: data.slice(data.indexOf(',') + 1)};
  } finally {
    bitmap.close();
  }
}

/** Returns the size of an image whose longest side is at most `side`. */
export function fitInto({width, height}: {readonly width: number; readonly height: number}, side: number): {readonly width: number; readonly height: number} {
  const scale = Math.min(1, side / Math.max(width, height, 1));
  return {width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale))};
}

/** The URL of an image for this page. */
export function imageUrl({type, data}: Attachment): string {
  return /^image\/(png|jpeg)$/.test(type) && /^[A-Za-z0-9+/=]*$/.test(data) ? `data:${type};base64,${data}` : '';
}
