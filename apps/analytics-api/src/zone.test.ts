import { countDays, DAY_MS, HOUR_MS, MINUTE_MS } from '@tally/contracts';
import { expect, test } from 'vitest';
import { periodsOf } from './zone.ts';

const day = (timeZone: string, date: string, interval: 'hour' | 'day' = 'day') =>
  periodsOf({ startDate: date, endDate: date }, interval, timeZone);
const iso = (ms: number) => new Date(ms).toISOString();

test.each([
  ['Europe/Berlin', '2026-03-29', 23],
  ['Europe/Berlin', '2026-10-25', 25],
  ['America/New_York', '2026-03-08', 23],
  ['America/New_York', '2026-11-01', 25],
  ['America/Havana', '2026-03-08', 23],
  ['Asia/Beirut', '2026-03-29', 23],
  ['Australia/Lord_Howe', '2026-04-05', 24.5],
  ['Australia/Lord_Howe', '2026-10-04', 23.5],
  ['Asia/Kathmandu', '2026-01-01', 24],
])('in %s the day %s has %d hours', (timeZone, date, hours) => {
  const [period] = day(timeZone, date);
  expect(period!.to - period!.from).toBe(hours * HOUR_MS);
  const parts = day(timeZone, date, 'hour');
  expect(parts.reduce((sum, { from, to }) => sum + to - from, 0)).toBe(hours * HOUR_MS);
  expect(parts.map(({ from }) => from)).toEqual([period!.from, ...parts.slice(0, -1).map(({ to }) => to)]);
});

test('a day that the zone left out has no period', () => {
  expect(day('Pacific/Apia', '2011-12-30')).toEqual([]);
  const around = periodsOf({ startDate: '2011-12-29', endDate: '2011-12-31' }, 'day', 'Pacific/Apia');
  expect(around.map(({ from, to }) => to - from)).toEqual([DAY_MS, DAY_MS]);
});

test('a day whose midnight the clock skips begins at its first moment', () => {
  const [period] = day('America/Havana', '2026-03-08');
  expect(iso(period!.from)).toBe('2026-03-08T05:00:00.000Z');
});

test('weeks start on Monday and months on the 1st; the edges say what the range covers of them', () => {
  const weeks = periodsOf({ startDate: '2026-11-18', endDate: '2026-11-24' }, 'week', 'UTC');
  expect(weeks.map(({ start, from, to }) => [iso(start), iso(from), iso(to)].map((time) => time.slice(0, 10)))).toEqual(
    [
      ['2026-11-16', '2026-11-18', '2026-11-23'],
      ['2026-11-23', '2026-11-23', '2026-11-25'],
    ],
  );
  const months = periodsOf({ startDate: '2026-01-31', endDate: '2026-03-01' }, 'month', 'Asia/Tokyo');
  expect(months.map(({ start }) => iso(start))).toEqual([
    '2025-12-31T15:00:00.000Z',
    '2026-01-31T15:00:00.000Z',
    '2026-02-28T15:00:00.000Z',
  ]);
});

test('in every IANA zone hours and quarters make up the days around the changes of the clock, without a hole', () => {
  const seasons = [
    { startDate: '2026-03-01', endDate: '2026-04-10' },
    { startDate: '2026-09-01', endDate: '2026-11-05' },
  ];
  for (const timeZone of Intl.supportedValuesOf('timeZone'))
    for (const season of seasons) {
      const days = periodsOf(season, 'day', timeZone);
      expect(days).toHaveLength(countDays(season.startDate, season.endDate));
      const uneven = days.filter(({ from, to }) => to - from !== DAY_MS);
      for (const [index, { from, to }] of days.entries()) {
        expect(from % (15 * MINUTE_MS)).toBe(0);
        expect(to).toBe(days[index + 1]?.from ?? to);
      }
      for (const { from, to } of uneven) {
        const date = new Date(from + 12 * HOUR_MS).toLocaleDateString('en-CA', { timeZone });
        for (const interval of ['hour', '15m'] as const) {
          const parts = periodsOf({ startDate: date, endDate: date }, interval, timeZone);
          expect([parts[0]!.from, parts.at(-1)!.to]).toEqual([from, to]);
          for (const [at, part] of parts.entries()) expect(part.to).toBe(parts[at + 1]?.from ?? to);
        }
      }
    }
});
