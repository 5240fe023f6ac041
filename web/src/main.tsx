/** Starts the page. */
import {render} from 'preact';
import {App} from './app/app';
import {applyPreferences} from './settings/preferences';
import {watchAnswers} from './chat/chat-store';
import './models/pull-store'; // says at once that a pull ended with the page before
import {beginSession} from './session/session';
import {watchConversations} from './storage/conversations';
import {watchUnread} from './storage/unread';
import {synchronisation} from './storage/synchronisation';
import './styles/tokens.css';
import './styles/base.css';

const root = document.getElementById('app');
if (!root) throw new Error('The document has no element for the page.');
beginSession();
await applyPreferences();
watchConversations();
watchUnread();
watchAnswers();
synchronisation.watch();
render(<App />, root);
