import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  addDays,
  countDays,
  dayOf,
  eachDay,
  isDay,
  monthOf,
  parseTime,
  StoredTime,
  startOfDay,
  timeText,
  trimesterOf,
} from './time.ts';

describe('days', () => {
  test.each([
    '2025/01/01',
    '01-01-2025',
    '2025-1-1',
    '2025-02-30',
    '2025-13-01',
    '2023-02-29',
    '',
    '0000-01-01',
    '0999-12-31',
    '9999-01-01',
    '9999-12-31',
    '+010000-01',
    '20250101',
  ])('"%s" is no day', (text) => {
    expect(isDay(text)).toBe(false);
  });

  test('a leap day is a day', () => {
    expect(isDay('2024-02-29')).toBe(true);
    expect(addDays('2024-02-28', 1)).toBe('2024-02-29');
  });

  test('a text is a day where the calendar of the engine has it', () => {
    const numbers = [
      fc.integer({ min: 1000, max: 9998 }),
      fc.integer({ min: 0, max: 13 }),
      fc.integer({ min: 0, max: 32 }),
    ];
    fc.assert(
      fc.property(fc.tuple(...numbers), ([year, ...rest]) => {
        const text = [year, ...rest.map((number) => String(number).padStart(2, '0'))].join('-');
        const at = new Date(`${text}T00:00:00Z`);
        expect(isDay(text)).toBe(!Number.isNaN(at.getTime()) && at.toISOString().startsWith(text));
      }),
      { numRuns: 2_000 },
    );
  });

  test('counting days and stepping through them agree', () => {
    const day = fc.integer({ min: 0, max: 20_000 }).map((count) => addDays('2000-01-01', count));
    fc.assert(
      fc.property(day, fc.integer({ min: 0, max: 800 }), (start, length) => {
        const end = addDays(start, length);
        expect(countDays(start, end)).toBe(length + 1);
        expect(eachDay(start, end)).toHaveLength(length + 1);
        expect(eachDay(start, end).at(-1)).toBe(end);
        expect(dayOf(startOfDay(end) - 1)).toBe(addDays(end, -1));
        const month = monthOf(end);
        expect(eachDay(month.startDate, month.endDate)).toContain(end);
        expect([month.startDate, addDays(month.endDate, 1)].map((day) => day.slice(8))).toEqual(['01', '01']);
        expect(countDays(month.startDate, month.endDate)).toBeLessThanOrEqual(31);
        const trimester = trimesterOf(end);
        expect(eachDay(trimester.startDate, trimester.endDate)).toContain(end);
        expect(trimester.startDate.slice(5)).toMatch(/^(01|04|07|10)-01$/);
        expect(trimesterOf(addDays(trimester.endDate, 1)).startDate).toBe(addDays(trimester.endDate, 1));
        expect(trimesterOf(trimester.startDate)).toEqual(trimester);
      }),
      { numRuns: 50 },
    );
  });
});

describe('times', () => {
  test.each([
    ['2026-11-22T10:00:00Z', '2026-11-22T10:00:00.000Z'],
    ['2023-11-16T18:15:46.6805900Z', '2023-11-16T18:15:46.680Z'],
    ['2026-11-22T23:30:00-02:00', '2026-11-23T01:30:00.000Z'],
    ['2026-11-22T03:10:50.099123+00:00', '2026-11-22T03:10:50.099Z'],
  ])('%s is %s', (text, utc) => {
    expect(new Date(parseTime(text)!).toISOString()).toBe(utc);
  });

  test.each([
    '2026-11-22',
    '2026-11-22T10:00:00',
    '2026-11-22 10:00:00Z',
    '2026-02-30T10:00:00Z',
    '2026-11-22T25:00:00Z',
    '2026-11-22T24:00:00Z',
    '2026-11-22T23:59:60Z',
    '1000-01-01T00:00:00+14:00',
    '9998-12-31T23:59:59-14:00',
    'now',
    '1700000000',
  ])('"%s" is no time', (text) => {
    expect(parseTime(text)).toBeUndefined();
  });

  test('an accepted time is on a UTC day, whatever its zone, and a stored one can be answered', () => {
    const edges = fc.constantFrom('0999-12-31', '1000-01-01', '2026-03-01', '9998-12-31', '9999-01-01');
    const [hour, minute] = [fc.integer({ min: 0, max: 24 }), fc.integer({ min: 0, max: 60 })];
    const two = (number: number) => String(number).padStart(2, '0');
    fc.assert(
      fc.property(edges, hour, minute, fc.constantFrom('+', '-'), hour, minute, (day, h, m, sign, zoneH, zoneM) => {
        const at = parseTime(`${day}T${two(h)}:${two(m)}:00${sign}${two(zoneH)}:${two(zoneM)}`);
        if (at === undefined) return;
        expect(isDay(new Date(at).toISOString().slice(0, 10))).toBe(true);
        expect(StoredTime.safeParse(new Date(at).toISOString()).success).toBe(true);
      }),
      { numRuns: 2_000 },
    );
  });

  test('times of one day, in every form of UTC, are the moments that the engine parses, and are written like its own', () => {
    const moment = fc.integer({ min: Date.parse('1000-01-01'), max: Date.parse('9998-12-31T23:59:59.999Z') });
    const form = fc.constantFrom<(iso: string) => string>(
      (iso) => iso,
      (iso) => iso.replace(/\.\d+Z/, 'Z'),
      (iso) => iso.replace('Z', '456789Z'),
      (iso) => iso.replace('Z', '+00:00'),
      (iso) => iso.replace(/T\d\d/, 'T24'),
      (iso) => iso.replace(/:\d\d\./, ':60.'),
    );
    const ofDay = fc.integer({ min: 0, max: 86_399_999 });
    fc.assert(
      fc.property(moment, fc.array(fc.tuple(ofDay, form), { maxLength: 5 }), (first, others) => {
        const day = startOfDay(dayOf(first));
        const all = [[first - day, (iso: string) => iso] as const, ...others];
        for (const [at, write] of all) {
          const iso = new Date(day + at).toISOString();
          expect(timeText(day + at)).toBe(iso);
          const parsed = Date.parse(write(iso));
          expect(parseTime(write(iso))).toBe(/T24|:60/.test(write(iso)) ? undefined : parsed);
        }
      }),
      { numRuns: 500 },
    );
  });
});
