/** Starts the page. */
import {render} from 'preact';
import {App} from './app/app';
import {chooseLanguage, setLanguage} from './i18n/i18n';
import './styles/tokens.css';
import './styles/base.css';

const root = document.getElementById('app');
if (!root) throw new Error('The document has no element for the page.');
await setLanguage(chooseLanguage(navigator.languages));
render(<App />, root);
