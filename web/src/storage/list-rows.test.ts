import {describe, expect, it} from 'vitest';
import type {ConversationSummary} from './conversation';
import {layOutRows, rowsInSight, type Row} from './list-rows';

const NOW = new Date(2026, 10, 29, 0, 30).getTime();
const HOUR = 3_600_000;
const summary = (id: string, updatedAt: number): ConversationSummary => ({id, title: id, createdAt: 0, updatedAt, messages: 1, running: 0});
const HEIGHTS = {group: 10, conversation: 20};
const name = (row: Row): string => (row.kind === 'group' ? row.group.name : row.summary.id);

describe('the rows', () => {
  it('are grouped by day of the calendar', () => {
    const times = [NOW + HOUR, NOW, NOW - HOUR, NOW - 48 * HOUR, NOW - 20 * 24 * HOUR, NOW - 40 * 24 * HOUR, NOW - 41 * 24 * HOUR, NOW - 80 * 24 * HOUR];
    const {rows, height} = layOutRows(times.map((time, index) => summary(String(index), time)), NOW, HEIGHTS);
    expect(rows.map(name)).toEqual(['today', '0', '1', 'yesterday', '2', 'week', '3', 'month', '4', 'earlier', '5', '6', 'earlier', '7']);
    expect(height).toBe(6 * 10 + 8 * 20);
    expect(rows.map(row => row.top)).toEqual([0, 10, 30, 50, 60, 80, 90, 110, 120, 140, 150, 170, 190, 200]);
  });

  it('are few, of many', () => {
    const many = layOutRows(Array.from({length: 2000}, (_, index) => summary(String(index), NOW)), NOW, HEIGHTS).rows;
    const shown = rowsInSight(many, 20_000, 600, '3');
    expect(shown.length).toBeLessThan(60);
    expect(shown.map(name)).toContain('1000');
    expect(shown.map(name)).toContain('3');
    expect(rowsInSight(many, 0, 600, null)[0]?.top).toBe(0);
    expect(rowsInSight([], 0, 600, null)).toEqual([]);
  });
});
