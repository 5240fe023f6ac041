/** The conversation that is shown, and what a person does with it. */
import {batch, computed, effect, signal, untracked} from '@preact/signals';
import {navigate, route} from '../app/router';
import {t} from '../i18n/i18n';
import {modelsByDesktop} from '../models/model-store';
import {readValue, writeValue} from '../session/browser-values';
import {authorizedRequest, user} from '../session/session';
import {bestDesktop, desktops} from '../status/status-store';
import {newId, type Attachment, type Conversation, type Id, type ModelOptions} from '../storage/conversation';
import {conversations} from '../storage/conversations';
import {titleInSentence} from '../storage/title';
import {addMessage, continueMessage, editMessage, messageOf, setValue, showMessage} from '../storage/tree';
import {markUnread} from '../storage/unread';
import {nextTask} from '../ui/tasks';
import {showToast} from '../ui/toast';
import {Answers} from './answers';
import {browserSurroundings} from './generation-client';
import type {End} from './generation-state';
import {listOptions, resolveChoice, type Choice} from './model-options';

/** What a conversation is told before the first message. */
export interface Instructions {
  readonly system: string;
  readonly options: ModelOptions;
  readonly think: boolean | string | null;
}

export const NO_INSTRUCTIONS: Instructions = {system: '', options: {}, think: null};

export const answers = new Answers(conversations, browserSurroundings(authorizedRequest), () => ({
  gone: t('chat.gone'),
  interrupted: t('chat.interrupted'),
}), tellEnd);

/** The conversation that is shown: undefined while it is loaded, null if there is none yet, or it was deleted. */
export const shown = computed<Conversation | null | undefined>(() => {
  const {id} = route.value;
  return id && conversations.userId.value ? conversations.open(id).value : null;
});

const newInstructions = signal<Instructions>(NO_INSTRUCTIONS);
const newChoice = signal<Choice | null>(null);

/** The instructions of the conversation that is shown, or of the one that begins with the next message. */
export const instructions = computed<Instructions>(() => {
  const conversation = shown.value;
  if (!conversation) return newInstructions.value;
  return {system: conversation.system.value, options: conversation.options.value, think: conversation.think.value};
});

export const modelLists = computed(() => listOptions(desktops.value ?? [], modelsByDesktop.value));

/** The model that the person wants; the one of before for a new conversation. */
export const wanted = computed<Choice>(() => {
  const conversation = shown.value;
  if (conversation?.model.value) return {desktop: conversation.desktop.value, model: conversation.model.value};
  return newChoice.value ?? {desktop: '', model: ''};
});
/** The model that would answer now; null if there is none. */
export const chosen = computed(() => resolveChoice(modelLists.value, wanted.value, bestDesktop.value?.id ?? '') ?? fallBack());

/** A model of before that is gone must not block new conversations. */
function fallBack(): Choice | null {
  return shown.value?.model.value ? null : resolveChoice(modelLists.value, {desktop: '', model: ''}, bestDesktop.value?.id ?? '');
}

/** The answer in progress at the end of what is shown. */
export const currentAnswer = computed(() => {
  const conversation = shown.value;
  const leaf = conversation?.leaf.value;
  const message = conversation && leaf ? messageOf(conversation, leaf) : undefined;
  return message?.state === 'streaming' ? message : null;
});

/** Tells of an answer that ended while something else is shown, unless the person stopped it; its conversation is marked. */
function tellEnd(id: Id, end: End): void {
  const {view, id: shownId} = route.peek();
  const summary = conversations.summaries.peek().find(each => each.id === id);
  if (end === 'stopped' || !summary || (view === 'chat' && shownId === id)) return;
  markUnread(id);
  const title = titleInSentence(summary.title);
  if (end === 'complete') showToast(t('chat.completeElsewhere', {title}));
  else showToast(t('chat.incompleteElsewhere', {title}), 'error');
}

export function chooseModel(choice: Choice): void {
  writeValue('browser', 'model', JSON.stringify(choice));
  newChoice.value = choice;
  const conversation = shown.peek();
  if (!conversation) return;
  void conversations.update(conversation.id, current => setValue(setValue(current, 'model', choice.model), 'desktop', choice.desktop));
}

export function setInstructions(next: Instructions): void {
  const conversation = shown.peek();
  if (!conversation) {
    newInstructions.value = next;
    return;
  }
  void conversations.update(conversation.id, current =>
    setValue(setValue(setValue(current, 'system', next.system), 'options', next.options), 'think', next.think));
}

/** Sends a message: of the conversation that is shown, or as the first of a new one. Returns whether it is in the conversation now. */
export async function sendMessage(content: string, attachments: readonly Attachment[]): Promise<boolean> {
  const choice = chosen.peek();
  if (!choice || shown.peek() === undefined) return false;
  const conversation = shown.peek() ?? begin(choice);
  await nextTask(); // the key is answered first
  return change(conversation.id, choice, current => addMessage(current, {role: 'user', content, attachments}));
}

/** Sends another version of a question; the first one remains as a branch. */
export async function sendEdited(message: Id, content: string, attachments: readonly Attachment[]): Promise<void> {
  const conversation = shown.peek();
  const choice = chosen.peek();
  if (conversation && choice) await change(conversation.id, choice, current => editMessage(current, message, {content, attachments}));
}

/** Asks for another answer; the first one remains as a branch. */
export async function retry(message: Id): Promise<void> {
  const conversation = shown.peek();
  const choice = chosen.peek();
  const answer = conversation && messageOf(conversation, message);
  if (!answer || !choice) return;
  await change(conversation.id, choice, current => setValue(current, 'leaf', answer.parent));
}

/** Asks the model to go on with an answer that ended too early. */
export async function continueAnswer(message: Id): Promise<void> {
  const conversation = shown.peek();
  const choice = chosen.peek();
  if (!conversation || !choice) return;
  const {id, values} = newAnswer(choice);
  const after = await conversations.update(conversation.id, current => continueMessage(current, message, values));
  if (after && messageOf(after, id)) answers.read(after, id, {isResumed: false});
}

export function stop(): void {
  const message = currentAnswer.peek();
  if (message) stopAnswer(message.id);
}

/** Ends an answer of the conversation that is shown. */
export function stopAnswer(id: Id): void {
  const conversation = shown.peek();
  if (conversation) answers.stop(conversation, id);
}

export function showVersion(message: Id): void {
  const conversation = shown.peek();
  if (conversation) void conversations.update(conversation.id, current => showMessage(current, message));
}

function begin(choice: Choice): Conversation {
  const {system, options, think} = newInstructions.peek();
  const conversation = conversations.create({...choice, system, options, think});
  batch(() => {
    newInstructions.value = NO_INSTRUCTIONS;
    navigate('chat', conversation.id, {replace: true});
  });
  return conversation;
}

/** Changes a conversation, and asks for an answer to what is its leaf then. Returns false if the conversation is gone. */
async function change(id: Id, choice: Choice, apply: (conversation: Conversation) => Conversation): Promise<boolean> {
  const answer = newAnswer(choice);
  const after = await conversations.update(id, current => addMessage(apply(current), answer.values));
  if (!after) return false;
  await nextTask(); // the question is shown before it is sent
  // The id of the generation is stored before it is sent, so that it is found after a reload.
  answers.read(after, answer.id, {isResumed: false});
  return true;
}

function newAnswer({desktop, model}: Choice) {
  const hasResources = desktops.peek()?.find(({id}) => id === desktop)?.resources ?? false;
  const id = newId();
  answers.claim(id);
  return {
    id,
    values: {id, role: 'assistant' as const, model, state: 'streaming' as const, generation: hasResources ? {id: newId(), desktop} : null},
  };
}

/** Goes on reading answers in progress, for as long as the page is there. Returns what ends that. */
export function watchAnswers(): () => void {
  const restore = effect(() => {
    if (!user.value) return;
    untracked(() => { newChoice.value = readChoice(); });
  });
  const resume = effect(() => {
    for (const {id, running} of conversations.summaries.value) {
      if (running > 0) untracked(() => void conversations.update(id, conversation => {
        answers.resume(conversation);
        return conversation;
      }));
    }
  });
  const stopDeleted = effect(() => {
    const {value: summaries} = conversations.summaries;
    if (answers.conversations.peek().size > 0) untracked(() => answers.stopAllBut(new Set(summaries.map(({id}) => id))));
  });
  let owner = user.peek()?.id;
  const leave = effect(() => {
    if (user.value?.id === owner) return;
    owner = user.value?.id;
    untracked(() => {
      answers.abandon();
      newInstructions.value = NO_INSTRUCTIONS;
    });
  });
  return () => {
    restore();
    resume();
    stopDeleted();
    leave();
  };
}

function readChoice(): Choice | null {
  try {
    const stored = JSON.parse(readValue('browser', 'model') ?? 'null') as Partial<Choice> | null;
    return typeof stored?.model === 'string' && typeof stored.desktop === 'string' ? {desktop: stored.desktop, model: stored.model} : null;
  } catch {
    return null;
  }
}
