/** The times and counts of an answer. */
import type {Statistics} from '../storage/conversation';

/** Returns what Ollama's last line says; null if it says nothing. */
export function readStatistics(line: Readonly<Record<string, unknown>>): Statistics | null {
  const read = (key: string): number => {
    const value = line[key];
    return typeof value === 'number' && Number.isFinite(value) && value > 0 ? value : 0;
  };
  const statistics = {
    totalDuration: read('total_duration'),
    loadDuration: read('load_duration'),
    promptTokens: read('prompt_eval_count'),
    promptDuration: read('prompt_eval_duration'),
    tokens: read('eval_count'),
    duration: read('eval_duration'),
  };
  return Object.values(statistics).some(value => value > 0) ? statistics : null;
}

/** Returns tokens a second; null without a time. */
export function tokensPerSecond({tokens, duration}: Statistics): number | null {
  return tokens > 0 && duration > 0 ? tokens / (duration / 1e9) : null;
}
