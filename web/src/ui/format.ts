/** Numbers, sizes and times as the language of the page writes them. */
import {language} from '../i18n/i18n';

const BYTE_UNITS = ['byte', 'kilobyte', 'megabyte', 'gigabyte', 'terabyte'] as const;

export function formatNumber(value: number, maximumFractionDigits = 0): string {
  return numberFormat({maximumFractionDigits}).format(value);
}

/** Returns a size such as "4.7 GB"; units are powers of 1000, as Ollama's are. */
export function formatBytes(bytes: number): string {
  let value = Math.max(0, bytes);
  let unit: (typeof BYTE_UNITS)[number] = 'byte';
  for (const next of BYTE_UNITS.slice(1)) {
    if (value < 999.5) break;
    value /= 1000;
    unit = next;
  }
  const maximumFractionDigits = unit === 'byte' || value >= 99.95 ? 0 : 1;
  return formatUnit(value, unit, maximumFractionDigits);
}

/** Returns a duration in at most two units, such as "2 min, 5 sec". */
export function formatDuration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  const parts = [
    ['day', Math.floor(whole / 86400)],
    ['hour', Math.floor(whole / 3600) % 24],
    ['minute', Math.floor(whole / 60) % 60],
    ['second', whole % 60],
  ] as const;
  const first = parts.findIndex(([, value]) => value > 0);
  if (first < 0) return formatUnit(0, 'second');
  const shown = parts.slice(first, first + 2).filter(([, value]) => value > 0);
  return shown.map(([unit, value]) => formatUnit(value, unit)).join(' ');
}

/** Makes the formats that the end of an answer needs. A phone takes 50 ms for that: it is done before, while nothing else is. */
export function prepareFormats(): void {
  formatNumber(1.5, 1);
  formatDuration(61);
}

/** Returns a latency such as "12 ms" or "1.2 sec". */
export function formatLatency(milliseconds: number): string {
  if (milliseconds < 999.5) return formatUnit(Math.max(0, milliseconds), 'millisecond', milliseconds < 9.95 ? 1 : 0);
  return formatUnit(milliseconds / 1000, 'second', 1);
}

const AGES = [['year', 31_536_000], ['month', 2_592_000], ['day', 86_400], ['hour', 3_600], ['minute', 60]] as const;

/** Returns a time as seen from `now`, such as "5 minutes ago" or "in 2 days"; both are epoch milliseconds. */
export function formatRelativeTime(time: number, now: number): string {
  const seconds = (time - now) / 1000;
  const [unit, size] = AGES.find(([, each]) => Math.abs(seconds) >= each) ?? (['second', 1] as const);
  const value = Math.trunc(seconds / size);
  return new Intl.RelativeTimeFormat(language.value, {numeric: 'auto'}).format(value === 0 ? 0 : value, unit);
}

/** Returns date and time; `time` is in epoch milliseconds. */
export function formatTime(time: number): string {
  return new Intl.DateTimeFormat(language.value, {dateStyle: 'medium', timeStyle: 'short'}).format(time);
}

function formatUnit(value: number, unit: string, maximumFractionDigits = 0): string {
  return numberFormat({style: 'unit', unit, maximumFractionDigits}).format(value);
}

/** By language and options: a format is slow to make, and there are few. */
const numberFormats = new Map<string, Intl.NumberFormat>();

function numberFormat(options: Intl.NumberFormatOptions): Intl.NumberFormat {
  const key = `${language.value} ${JSON.stringify(options)}`;
  const format = numberFormats.get(key) ?? new Intl.NumberFormat(language.value, options);
  numberFormats.set(key, format);
  return format;
}
