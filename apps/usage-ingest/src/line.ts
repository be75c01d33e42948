import {
  type CheckedEntry,
  dayOf,
  MEASURES,
  midnightNear,
  type ScaleOf,
  STATED_MEASURES,
  type Units,
  unitsText,
} from '@tally/contracts';
import type { JournalLine } from '@tally/db';

const STATED = new Set<string>(STATED_MEASURES);

/** Returns the journal line of a checked event: adds what Tally derives, leaves out zero and missing values. */
export function lineOf(entry: CheckedEntry, time: number, scaleOf?: ScaleOf): JournalLine {
  const count = String(entry.count ?? 1);
  const line: JournalLine = { merchant_id: entry.merchantId, date: dayOf(time), id: entry.id, time, requests: count };
  if (isKnown(entry.userId)) line.user_id = entry.userId;
  if (isKnown(entry.apiKey)) line.api_key = entry.apiKey;
  if (isKnown(entry.model)) line.model = entry.model;
  if (isKnown(entry.provider)) line.provider = entry.provider;
  if (entry.status === 'failure') {
    line.failed = true;
    line.failed_requests = count;
  }
  if (count !== '1') line.calls = count;
  addMetrics(line, entry.metrics, scaleOf);
  if (entry.properties && Object.keys(entry.properties).length > 0) line.properties = entry.properties;
  return line;
}

/** Answers call an absent dimension `unknown`, so sending that is the same as sending none. */
function isKnown(dimension: string | undefined): dimension is string {
  return dimension !== undefined && dimension !== '' && dimension !== 'unknown';
}

/** Puts amounts into a line, in units; leaves out zeros. */
export function addMetrics(line: JournalLine, metrics: Record<string, string>, scaleOf?: ScaleOf): void {
  for (const type in metrics) {
    const units = unitsText(type, metrics[type]!, scaleOf);
    if (units === '0') continue;
    if (STATED.has(type)) {
      line[type as 'cost'] = units;
    } else {
      line.metrics ??= {};
      line.metrics[type] = units;
    }
  }
}

/** Returns the identity of a line within its merchant. */
export function identityOf(line: JournalLine): string {
  return `${line.date} ${line.id}`;
}

/**
 * Returns where to look for the id of a line before the journal decides: on its day, or around the midnight it is near.
 */
export function placeOf({ date, time }: JournalLine): string {
  const midnight = midnightNear(time);
  return midnight === undefined ? date : `${MIDNIGHT}${midnight}`;
}

/** Prefix of a place around a midnight. */
export const MIDNIGHT = '~';

/** Returns the content of a line as text that is equal for equal contents, whatever the times. */
export function contentOf(line: JournalLine): string {
  const { merchant_id: _, date: __, time: ___, metrics = {}, properties = {}, ...more } = line;
  return JSON.stringify([more, metrics, properties].map((part) => Object.entries(part).sort()));
}

/** Calls back with the amounts that a line adds to its day, by metric type, as units in text. */
export function eachAmount(line: JournalLine, tell: (metricType: string, units: string) => void): void {
  for (const type of MEASURES) {
    const units = line[type];
    if (units !== undefined) tell(type, units);
  }
  for (const type in line.metrics) tell(type, line.metrics[type]!);
}

/** Returns the amounts that a line adds to its day, by metric type. */
export function amountsOf(line: JournalLine): [metricType: string, units: Units][] {
  const amounts: [string, Units][] = [];
  eachAmount(line, (type, units) => amounts.push([type, BigInt(units)]));
  return amounts;
}
