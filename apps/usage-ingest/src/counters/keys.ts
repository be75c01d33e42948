import { addDays, type Day, dayOf, startOfDay } from '@tally/contracts';

/**
 * Every Redis key of usage-ingest. The braces are literal: the Cluster hash tag that keeps a merchant's keys in one
 * slot, so that one script can touch them. Never use a keyPrefix.
 */
export const PENDING = 'usage:pending';

/** Marks of those who are taking a merchant out of `usage:pending`, `token merchant`; in the same slot as that. */
export const LEAVING = '{usage:pending}:leaving';

/** `usage:{m}:2026-11-22:queries`: the running total, a string of units. */
export const totalKey = (merchantId: string, date: Day, metricType: string) =>
  `usage:{${merchantId}}:${date}:${metricType}`;

/** The set of metric types that a merchant's day has totals of. */
export const typesKey = (merchantId: string, date: Day) => `usage:{${merchantId}}:types:${date}`;

/** The set of dimensions (user, key, model, provider) that a merchant's day has. */
export const dimensionsKey = (merchantId: string, date: Day) => `usage:{${merchantId}}:dimensions:${date}`;

/** The stream of accepted entries that are not yet in Postgres. */
export const journalKey = (merchantId: string) => `usage:{${merchantId}}:journal`;

/** The ids seen in one period of arrival, a UTC day. */
export const seenKey = (merchantId: string, period: Day) => `usage:{${merchantId}}:seen:${period}`;

/** Matches the journal of every merchant. */
export const JOURNALS_PATTERN = 'usage:{*}:journal';

/** Reads a journal's key back. */
export function parseJournalKey(key: string): string | undefined {
  return /^usage:\{([^}]+)\}:journal$/.exec(key)?.[1];
}

/** Matches the totals of a date, of all merchants, and nothing else. */
export const totalsPattern = (date: Day) => `usage:{*}:${date}:*`;

/** Reads a total's key back; undefined for any other key. */
export function parseTotalKey(key: string): { merchantId: string; date: Day; metricType: string } | undefined {
  const [, merchantId, date, metricType] = /^usage:\{([^}]+)\}:(\d{4}-\d{2}-\d{2}):([a-z0-9_]+)$/.exec(key) ?? [];
  return metricType === undefined ? undefined : { merchantId: merchantId!, date: date!, metricType };
}

/** Totals expire 7 days after their date; the last entries for them come 6 days after it. */
export const LIVE_DAYS = 6;

/** When a day's totals expire, in Unix seconds. */
export const expiryOf = (date: Day) => startOfDay(addDays(date, 8)) / 1000;

/** The current and the previous period of arrival: the hot window is never shorter than 24 h. */
export function seenPeriods(now: number): { current: Day; previous: Day } {
  const current = dayOf(now);
  return { current, previous: addDays(current, -1) };
}

/** A period's ids are looked at until the period after it ends. */
export const SEEN_SECONDS = 2 * 24 * 60 * 60;
