/** Whether the settings of the conversation are open. */
import {signal} from '@preact/signals';

export const showsChatSettings = signal(false);
