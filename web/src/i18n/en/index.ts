import {app} from './app';
import {chat} from './chat';
import {markdown} from './markdown';
import {models} from './models';
import {onboarding} from './onboarding';
import {session} from './session';
import {settings} from './settings';
import {status} from './status';
import {storage} from './storage';

/** The English texts, which define the keys. A section's texts begin with its name. */
const sections = {
  ...app, ...chat, ...markdown, ...models, ...onboarding, ...session, ...settings, ...status, ...storage,
};

export type Texts = Readonly<Record<keyof typeof sections, string>>;
export const en: Texts = sections;
