/** The rows of the list of conversations: they are grouped by day, and only those in sight are rendered. */
import type {ConversationSummary, Id} from './conversation';

export type Row =
  | {readonly kind: 'group'; readonly group: Group; readonly top: number}
  | {readonly kind: 'conversation'; readonly summary: ConversationSummary; readonly index: number; readonly top: number};

/** `month` is epoch milliseconds of one of its days; null for the others. */
export interface Group {
  readonly name: 'today' | 'yesterday' | 'week' | 'month' | 'earlier';
  readonly month: number | null;
}

export interface RowHeights {
  readonly group: number;
  readonly conversation: number;
}

/** Returns rows with their places, in the order of `summaries`. */
export function layOutRows(summaries: readonly ConversationSummary[], now: number, heights: RowHeights): {readonly rows: readonly Row[]; readonly height: number} {
  const rows: Row[] = [];
  let top = 0;
  let last = '';
  for (const [index, summary] of summaries.entries()) {
    const group = groupOf(summary.updatedAt, now);
    const key = group.month === null ? group.name : monthKey(group.month);
    if (key !== last) {
      rows.push({kind: 'group', group, top});
      top += heights.group;
      last = key;
    }
    rows.push({kind: 'conversation', summary, index, top});
    top += heights.conversation;
  }
  return {rows, height: top};
}

const OVERSCAN = 200;

/** Returns the rows that are in sight, or nearly; and the one of `kept`, which has the focus. */
export function rowsInSight(rows: readonly Row[], scrollTop: number, height: number, kept: Id | null): readonly Row[] {
  const from = firstFrom(rows, scrollTop - OVERSCAN);
  const to = firstFrom(rows, scrollTop + height + OVERSCAN);
  const shown = rows.slice(Math.max(0, from - 1), to);
  const focused = kept === null ? undefined : rows.find(row => row.kind === 'conversation' && row.summary.id === kept);
  return focused && !shown.includes(focused) ? [...shown, focused] : shown;
}

/** Returns the index of the first row at `top` or below, by bisection. */
function firstFrom(rows: readonly Row[], top: number): number {
  let low = 0;
  let high = rows.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((rows[middle]?.top ?? 0) < top) low = middle + 1;
    else high = middle;
  }
  return low;
}

function groupOf(time: number, now: number): Group {
  const days = daysBetween(time, now);
  if (days <= 0) return {name: 'today', month: null};
  if (days === 1) return {name: 'yesterday', month: null};
  if (days <= 7) return {name: 'week', month: null};
  if (days <= 30) return {name: 'month', month: null};
  return {name: 'earlier', month: time};
}

/** Days of the calendar, whatever their hours. */
function daysBetween(time: number, now: number): number {
  const day = (each: number): number => {
    const date = new Date(each);
    return Date.UTC(date.getFullYear(), date.getMonth(), date.getDate()) / 86_400_000;
  };
  return day(now) - day(time);
}

function monthKey(time: number): string {
  const date = new Date(time);
  return `${date.getFullYear()}-${date.getMonth()}`;
}
