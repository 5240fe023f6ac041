/** Conversations as files: JSON, with everything in it, and Markdown, with the branch that is shown. */
import type {Conversation, Id, Message} from './conversation';
import {pathToLeaf} from './tree';

export const FORMAT = 'ctllm-conversations';
/** Begins each message in Markdown; lines of a text that look like it get a backslash. */
export const MARKER = /^<!-- (\\*)(user|assistant|tool)\b([^>\n]*) -->$/;

/** Gives a conversation, or null if it is gone. */
export type Load = (id: Id) => Promise<Conversation | null>;

/** Returns the JSON file of conversations, which are loaded one after another. */
export async function exportJson(ids: readonly Id[], load: Load, now: number): Promise<Blob> {
  const parts: string[] = [`{"format":"${FORMAT}","version":1,"exported_at":"${new Date(now).toISOString()}","conversations":[`];
  for (const id of ids) {
    const conversation = await load(id);
    if (conversation) parts.push(parts.length > 1 ? ',\n' : '\n', JSON.stringify(conversation));
  }
  parts.push('\n]}\n');
  return new Blob(parts, {type: 'application/json'});
}

/** Returns the Markdown file of conversations, one after another. */
export async function exportMarkdown(ids: readonly Id[], load: Load): Promise<Blob> {
  const parts: string[] = [];
  for (const id of ids) {
    const conversation = await load(id);
    if (conversation) parts.push(parts.length > 0 ? '\n' : '', toMarkdown(conversation));
  }
  return new Blob(parts, {type: 'text/markdown'});
}

/** Returns a conversation as Markdown. The comments let `parseMarkdown` read it again. */
export function toMarkdown(conversation: Conversation): string {
  const title = conversation.title.value.replace(/\s+/g, ' ');
  return [`# ${title}`, ...pathToLeaf(conversation).map(formatMessage)].join('\n\n') + '\n';
}

function formatMessage(message: Message): string {
  const {role, model, content, attachments, createdAt} = message;
  const words = [role, new Date(createdAt).toISOString(), ...(/^[\w.:/@-]+$/.test(model) ? [model] : [])];
  const files = attachments.map(({name}) => `*${name.replace(/[*\n]/g, ' ')}*`);
  const heading = {user: 'You', assistant: model || 'Assistant', tool: message.toolName || 'Tool'}[role].replace(/\n/g, ' ');
  return [`<!-- ${words.join(' ')} -->\n## ${heading}`, ...files, escapeText(content)].filter(Boolean).join('\n\n');
}

/** Lines that would begin a message, or a conversation, get a backslash. */
function escapeText(text: string): string {
  return text.split('\n').map(line => line.replace(/^<!-- (?=\\*(user|assistant|tool)\b)/, '<!-- \\')).join('\n');
}

/** Returns a name for a file that all systems accept. */
export function fileName(title: string, extension: string): string {
  const safe = title.normalize('NFC').replace(/[\p{C}<>:"/\\|?*.]+/gu, ' ').replace(/\s+/g, ' ').trim();
  return `${[...safe].slice(0, 60).join('').trim() || 'conversations'}.${extension}`;
}

/** Lets the browser save a file. */
export function saveFile(content: Blob, name: string): void {
  const url = URL.createObjectURL(content);
  const link = document.createElement('a');
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
