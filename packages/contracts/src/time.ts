import { z } from 'zod';

export const MINUTE_MS = 60_000;
export const QUARTER_HOUR_MS = 15 * MINUTE_MS;
export const HOUR_MS = 60 * MINUTE_MS;
export const DAY_MS = 24 * HOUR_MS;

const DAY_PATTERN = /^[1-9]\d{3}-\d{2}-\d{2}$/;

/**
 * A UTC day as callers name it: `YYYY-MM-DD`, existing, of the years 1000 to 9998. Days compare as strings, and so do
 * their neighbours.
 */
export const Day = z
  .string()
  .refine(isDay, {
    error: 'Expected an existing day as YYYY-MM-DD, from 1000-01-01 to 9998-12-31.',
  })
  .meta({ format: 'date', examples: ['2026-11-20'] });
export type Day = string;

/** A day in an answer: any that may be stored, also one that callers may not name. */
export const StoredDay = z
  .string()
  .regex(/^[+-]?\d{4,6}-\d{2}-\d{2}$/)
  .meta({ examples: ['2026-11-20'] });

/**
 * Returns true for an existing UTC day of the years 1000 to 9998, written YYYY-MM-DD. Its neighbours compare as strings
 * too.
 */
export function isDay(text: string): text is Day {
  if (!DAY_PATTERN.test(text) || text >= '9999') return false;
  const [year, month, day] = [Number(text.slice(0, 4)), Number(text.slice(5, 7)), Number(text.slice(8))];
  return day >= 1 && day <= daysIn(year, month);
}

/** Returns the number of days of a month, counted from 1; 0 for a month that does not exist. */
function daysIn(year: number, month: number): number {
  if (month === 2) return year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0) ? 29 : 28;
  return [0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month] ?? 0;
}

/** The last result: batches ask for the same day thousands of times a second. */
let latest = { number: Number.NaN, day: '' };

/** Returns the UTC day of a moment. */
export function dayOf(ms: number): Day {
  const number = Math.floor(ms / DAY_MS);
  if (latest.number !== number) latest = { number, day: new Date(ms).toISOString().slice(0, 10) };
  return latest.day;
}

/** Returns the moment at which a UTC day begins, in milliseconds. */
export function startOfDay(day: Day): number {
  return Date.parse(`${day}T00:00:00Z`);
}

const TWO_DIGITS = Array.from({ length: 60 }, (_, number) => String(number).padStart(2, '0'));

/**
 * Returns a moment of the years 0 to 9999 like `Date.toISOString`, in a sixth of its time where many are of one day.
 */
export function timeText(ms: number): string {
  const ofDay = ms - Math.floor(ms / DAY_MS) * DAY_MS;
  const [seconds, rest] = [Math.floor(ofDay / 1_000), ofDay % 1_000];
  const minutes = Math.floor(seconds / 60);
  const clock = `${TWO_DIGITS[Math.floor(minutes / 60)]}:${TWO_DIGITS[minutes % 60]}:${TWO_DIGITS[seconds % 60]}`;
  return `${dayOf(ms)}T${clock}.${String(1_000 + rest).slice(1)}Z`;
}

/** Within this distance of a midnight, an identity spans both days. */
const NEAR_MIDNIGHT_MS = 2 * HOUR_MS;

/** Returns the UTC midnight within 2 hours of a moment, as the day that begins; undefined for all other moments. */
export function midnightNear(ms: number): Day | undefined {
  const ofDay = ((ms % DAY_MS) + DAY_MS) % DAY_MS;
  if (ofDay >= NEAR_MIDNIGHT_MS && ofDay < DAY_MS - NEAR_MIDNIGHT_MS) return undefined;
  return dayOf(ms + NEAR_MIDNIGHT_MS);
}

/** Returns the day `count` days later (earlier if negative). */
export function addDays(day: Day, count: number): Day {
  return dayOf(startOfDay(day) + count * DAY_MS);
}

/** Returns the number of days of a range, both ends included. */
export function countDays(startDate: Day, endDate: Day): number {
  return Math.round((startOfDay(endDate) - startOfDay(startDate)) / DAY_MS) + 1;
}

/** Returns every day of a range, both ends included. */
export function eachDay(startDate: Day, endDate: Day): Day[] {
  return Array.from({ length: Math.max(0, countDays(startDate, endDate)) }, (_, index) => addDays(startDate, index));
}

/** Returns the month of a day: its first and last day. */
export function monthOf(day: Day): { startDate: Day; endDate: Day } {
  const startDate = `${day.slice(0, 8)}01`;
  const endDate = `${day.slice(0, 8)}${daysIn(Number(day.slice(0, 4)), Number(day.slice(5, 7)))}`;
  return { startDate, endDate };
}

/** The days on which quarters of a month begin: the 1st to 8th, 9th to 15th, 16th to 22nd, and 23rd to the month's end. */
const QUARTER_STARTS = [23, 16, 9, 1];

/** Returns the quarter of a month that has a day: its first and last day. */
export function quarterMonthOf(day: Day): { startDate: Day; endDate: Day } {
  const at = QUARTER_STARTS.findIndex((start) => Number(day.slice(8)) >= start);
  const on = (number: number) => `${day.slice(0, 8)}${`${number}`.padStart(2, '0')}`;
  return {
    startDate: on(QUARTER_STARTS[at]!),
    endDate: at === 0 ? monthOf(day).endDate : on(QUARTER_STARTS[at - 1]! - 1),
  };
}

/** Returns the first and last day of the trimester of `day`: January to March, and so on. */
export function trimesterOf(day: Day): { startDate: Day; endDate: Day } {
  const last = Math.ceil(Number(day.slice(5, 7)) / 3) * 3;
  const month = (number: number) => `${day.slice(0, 5)}${String(number).padStart(2, '0')}`;
  return { startDate: `${month(last - 2)}-01`, endDate: `${month(last)}-${daysIn(Number(day.slice(0, 4)), last)}` };
}

/** Returns the first and last day of the year of `day`. */
export function yearOf(day: Day): { startDate: Day; endDate: Day } {
  const year = day.slice(0, 4);
  return { startDate: `${year}-01-01`, endDate: `${year}-12-31` };
}

const TIME_PATTERN = /^\d{4}-\d{2}-\d{2}T(?:[01]\d|2[0-3]):\d{2}:\d{2}(?:\.\d{1,9})?(?:Z|[+-]\d{2}:\d{2})$/;

/** A time as `Date.toISOString` writes it. */
const UTC_PATTERN = /^\d{4}-\d{2}-\d{2}T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d\.\d{3}Z$/;

/** The last result: a time is first checked and then used, and events of a batch often share it. */
let latestTime: { text: string; ms: number | undefined } = { text: '', ms: undefined };

/**
 * Parses an ISO 8601 time with its zone, to the millisecond; undefined if it is invalid, or if its UTC day is not of
 * the years 1000 to 9998.
 */
export function parseTime(text: string): number | undefined {
  if (latestTime.text !== text) latestTime = { text, ms: momentOf(text) };
  return latestTime.ms;
}

/** The last day of a time in UTC: those of a batch are mostly of one day, so only their clocks need to be read. */
let latestDay = { text: 'none', start: 0 };
const ZERO = 48;

function momentOf(text: string): number | undefined {
  if (UTC_PATTERN.test(text) && text.startsWith(latestDay.text)) return latestDay.start + clockOf(text);
  if (!TIME_PATTERN.test(text) || !isDay(text.slice(0, 10))) return undefined;
  const ms = Date.parse(text);
  if (Number.isNaN(ms) || !isDay(dayOf(ms))) return undefined;
  if (text.endsWith('Z')) latestDay = { text: text.slice(0, 10), start: startOfDay(text.slice(0, 10)) };
  return ms;
}

/** Milliseconds since midnight of a time as `UTC_PATTERN` has it. */
function clockOf(text: string): number {
  const two = (at: number) => text.charCodeAt(at) * 10 + text.charCodeAt(at + 1) - 11 * ZERO;
  return two(11) * HOUR_MS + two(14) * MINUTE_MS + two(17) * 1_000 + (text.charCodeAt(20) - ZERO) * 100 + two(21);
}

/** A moment as callers name it: ISO 8601 with its zone, on a UTC day of the years 1000 to 9998. */
export const Time = z
  .string()
  .refine((text) => parseTime(text) !== undefined, {
    error: 'Expected an ISO 8601 time with its zone, such as 2026-11-22T10:00:00Z, in the years 1000 to 9998 of UTC.',
  })
  .meta({ format: 'date-time', examples: ['2026-11-20T10:00:00Z'] });
export type Time = string;

/** A moment in an answer: ISO 8601, any that may be stored. */
export const StoredTime = z
  .string()
  .regex(/^[+-]?\d{4,6}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(?:\.\d+)?(?:Z|[+-]\d{2}:\d{2})$/)
  .meta({ examples: ['2026-11-20T10:00:00.000Z'] });

/** The freshness of an answer. */
export const Drained = z.object({
  /** True if the answer has everything acknowledged before the call. */
  complete: z.boolean(),
  /** The answer has everything acknowledged before this moment; null if unknown. */
  asOf: StoredTime.nullable(),
});
export type Drained = z.infer<typeof Drained>;

/** A range of UTC days, both ends included. */
export const DayRange = z.object({ startDate: Day, endDate: Day });
export type DayRange = z.infer<typeof DayRange>;

/** Both ends of a range, or neither: the procedure defines the default. */
export const OptionalRange = z.strictObject({ startDate: Day.optional(), endDate: Day.optional() });
export const hasBothEnds = (range: z.infer<typeof OptionalRange>): boolean =>
  (range.startDate === undefined) === (range.endDate === undefined);
export const BOTH_ENDS = { error: 'Give both ends of the range, or none.' };
