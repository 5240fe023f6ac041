/** Which desktop answers when nobody chose one. */
import type {Desktop} from '../api/types';

const ORDER: readonly Desktop['ollama'][] = ['up', 'demo', 'down'];

/** Returns the first desktop whose Ollama runs, or else the first with the demo model, or else the first. */
export function chooseBestDesktop(desktops: readonly Desktop[]): Desktop | null {
  for (const state of ORDER) {
    const found = desktops.find(({ollama}) => ollama === state);
    if (found) return found;
  }
  return null;
}
