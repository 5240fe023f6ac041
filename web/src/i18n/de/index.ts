import type {Texts} from '../en';
import {app} from './app';
import {chat} from './chat';
import {markdown} from './markdown';
import {models} from './models';
import {onboarding} from './onboarding';
import {session} from './session';
import {settings} from './settings';
import {status} from './status';
import {storage} from './storage';

/** The German texts. */
export const de: Texts = {
  ...app, ...chat, ...markdown, ...models, ...onboarding, ...session, ...settings, ...status, ...storage,
};
