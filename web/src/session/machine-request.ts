/** The request of a machine to use the models: the link that `ollama` shows has its code. */
import {signal} from '@preact/signals';
import {readJson, RequestError} from '../api/http';
import {t} from '../i18n/i18n';
import {showToast} from '../ui/toast';
import {readParameter, takeParameter} from './fragment';
import {authorizedRequest, isConfirmed, user} from './session';

/** What the cloud knows of the machine: the response of POST /ctllm/machines/introspect. */
export interface MachineRequest {
  readonly fingerprint: string;
  readonly address: string | null;
  /** null if the cloud cannot know. */
  readonly is_same_network: boolean | null;
  readonly program: string | null;
  readonly seconds_ago: number;
}

export type MachineAnswer =
  | {readonly kind: 'approved'; readonly name: string; readonly mayManage: boolean}
  | {readonly kind: 'declined'}
  /** Left without an answer. */
  | {readonly kind: 'none'};

interface Question {
  readonly machine: MachineRequest;
  readonly answer: (answer: MachineAnswer) => void;
}

/** The question that is on the screen. */
export const machineQuestion = signal<Question | null>(null);

const KEY = 'machine';
let kept: string | null = null;
/** The questions so far; each waits for the one before. */
let lastQuestion: Promise<void> = Promise.resolve();

/** Returns the code that waits for an answer. A login with a link replaces the fragment that had it. */
export function pendingMachine(): string | null {
  kept = readParameter(location.hash, 'machine') ?? kept;
  return kept;
}

/** Keeps the code of a machine while the tab is at the provider: no redirect has the fragment. */
export function keepMachine(code: string | null): void {
  try {
    if (code) sessionStorage.setItem(KEY, code);
    else sessionStorage.removeItem(KEY);
  } catch {
    // A browser may forbid to store anything. Then the link has to be opened again.
  }
}

/** Takes up the code that was kept. */
export function recallMachine(): void {
  try {
    kept = sessionStorage.getItem(KEY) ?? kept;
  } catch {
    return;
  }
  keepMachine(null);
}

/** Takes the question off the screen without an answer. */
export function leaveMachineQuestion(): void {
  machineQuestion.value?.answer({kind: 'none'});
}

/** Asks the person about the machine that waits, if one does. */
export function answerMachine(): Promise<void> {
  lastQuestion = lastQuestion.then(askAndAnswer);
  return lastQuestion;
}

async function askAndAnswer(): Promise<void> {
  const code = pendingMachine();
  if (!code || !isConfirmed.value) return;
  const asker = user.value?.id;
  try {
    const machine = await readJson<MachineRequest>(await authorizedRequest('POST', '/ctllm/machines/introspect', {body: {code}}));
    const answer = await askPerson(machine);
    if (user.value?.id !== asker || !isConfirmed.value || pendingMachine() !== code) return; // it is put to whoever logs in next
    await sendAnswer(code, answer);
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    if (error.endsSession || !error.status || error.status === 409) return;
    showToast(error.message, 'error');
  }
  forgetMachine();
}

function askPerson(machine: MachineRequest): Promise<MachineAnswer> {
  return new Promise(resolve => {
    const answer = (given: MachineAnswer): void => {
      machineQuestion.value = null;
      resolve(given);
    };
    machineQuestion.value = {machine, answer};
  });
}

async function sendAnswer(code: string, answer: MachineAnswer): Promise<void> {
  if (answer.kind === 'declined') await authorizedRequest('POST', '/ctllm/machines/decline', {body: {code}});
  if (answer.kind !== 'approved') return;
  const scopes = answer.mayManage ? ['use', 'manage'] : ['use'];
  await authorizedRequest('POST', '/ctllm/machines', {body: {code, name: answer.name, scopes}});
  showToast(t('session.machine.approved', {name: answer.name}));
}

function forgetMachine(): void {
  kept = null;
  takeParameter('machine');
}
