/** Starts the page. */
import {render} from 'preact';
import {App} from './app/app';
import {applyPreferences} from './settings/preferences';
import {watchAnswers} from './chat/chat-store';
import {watchConversations} from './storage/conversations';
import {synchronisation} from './storage/synchronisation';
import './styles/tokens.css';
import './styles/base.css';

const root = document.getElementById('app');
if (!root) throw new Error('The document has no element for the page.');
await applyPreferences();
watchConversations();
watchAnswers();
synchronisation.watch();
render(<App />, root);
