/** Ollama's request for an answer, from a conversation. */
import type {Attachment, Conversation, Id, Message} from '../storage/conversation';
import {messageOf, pathTo} from '../storage/tree';

/** A message of Ollama's API. */
interface ChatMessage {
  readonly role: 'system' | 'user' | 'assistant' | 'tool';
  readonly content: string;
  readonly images?: readonly string[];
  readonly tool_calls?: readonly {readonly function: {readonly name: string; readonly arguments: unknown}}[];
  readonly tool_name?: string;
}

/** Returns the body of the request for the answer `id`: all messages before it, and what it continues. */
export function chatRequest(conversation: Conversation, id: Id): Readonly<Record<string, unknown>> {
  const answer = messageOf(conversation, id);
  const before = pathTo(conversation, answer?.parent ?? null);
  const prefix = answer?.content.slice(0, answer.prefix) ?? '';
  const system = conversation.system.value.trim();
  const messages: ChatMessage[] = [
    ...(system ? [{role: 'system', content: system} as const] : []),
    ...before.filter(isSaid).map(asChatMessage),
    ...(prefix ? [{role: 'assistant', content: prefix} as const] : []),
  ];
  const {options, think} = conversation;
  return {
    model: answer?.model ?? conversation.model.value,
    messages,
    stream: true,
    ...(Object.keys(options.value).length ? {options: options.value} : {}),
    ...(think.value === null ? {} : {think: think.value}),
  };
}

/** Whether a message says anything: an answer that failed at once does not. */
function isSaid({role, content, toolCalls}: Message): boolean {
  return role !== 'assistant' || content !== '' || toolCalls.length > 0;
}

function asChatMessage({role, content, attachments, toolCalls, toolName}: Message): ChatMessage {
  const images = attachments.filter(({kind}) => kind === 'image').map(({data}) => data);
  const texts = attachments.filter(({kind}) => kind === 'text').map(quoteFile);
  return {
    role,
    content: [...texts, content].filter(Boolean).join('\n\n'),
    ...(images.length ? {images} : {}),
    ...(toolCalls.length ? {tool_calls: toolCalls.map(({name, arguments: values}) => ({function: {name, arguments: values}}))} : {}),
    ...(toolName ? {tool_name: toolName} : {}),
  };
}

/** Returns a text file in a fence that is longer than any within it. */
function quoteFile({name, data}: Attachment): string {
  const longest = Math.max(2, ...Array.from(data.matchAll(/`{3,}/g), found => found[0].length));
  const fence = '`'.repeat(longest + 1);
  return `${name}:\n${fence}\n${data}\n${fence}`;
}
