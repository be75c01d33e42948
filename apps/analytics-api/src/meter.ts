import {
  BUILT_IN_METERS,
  type Coverage,
  type Day,
  dayOf,
  formatUnits,
  type GroupBy,
  type MeterQuery,
  parseTime,
  QUARTER_HOUR_MS,
  startOfDay,
  TallyError,
} from '@tally/contracts';
import { type Db, type MeterRow, type MeterValue, quantilesOf, unknownMeter } from '@tally/db';
import { assertRange } from './dates.ts';
import type { FairQueue } from './fair-queue.ts';
import type { Freshness } from './fresh.ts';
import type { ReadMeasure } from './measure-meter.ts';
import { type Period, periodsOf } from './zone.ts';

export type MeterAnswer = {
  rows: { start: string; end: string; group: Record<string, string>; value: string }[];
  coverage: Coverage;
};

export type ReadMeter = (question: MeterQuery, callerId: string) => Promise<MeterAnswer>;

/** Rows of one answer; a bounded answer, whoever asks. */
const MAX_ROWS = 100_000;
/** A row of PERCENTILE is made of its buckets. */
const MAX_BUCKETS = 1_000_000;

/** Answers queries about meters, from their rollups alone. */
export function createReadMeter({
  db,
  readMeasure,
  freshness,
  queue,
  maxDays,
  now,
}: {
  db: Pick<Db, 'meters'>;
  /** Answers the built-in meters. */
  readMeasure: ReadMeasure;
  freshness: Freshness;
  queue: FairQueue;
  maxDays: number;
  now: () => number;
}): ReadMeter {
  /** The meter of every merchant with this name, else the one of the only merchant that is asked for. */
  async function find(key: string, merchantIds: readonly string[] | undefined): Promise<MeterRow> {
    const [own] = merchantIds?.length === 1 ? merchantIds : [];
    const found =
      (own === undefined ? undefined : await db.meters.find({ key, merchantId: own })) ??
      (await db.meters.find({ key, merchantId: '' }));
    if (found) return found;
    throw unknownMeter(key);
  }

  return async (question, callerId) => {
    const windows = windowsOf(question);
    const range = { startDate: dayOf(windows[0]!.from), endDate: dayOf(windows.at(-1)!.to - 1) };
    assertRange(range, maxDays);
    const { merchantIds } = question;
    const builtIn = BUILT_IN_METERS.find(({ key }) => key === question.meter);
    const meter = builtIn ?? (await find(question.meter, merchantIds));
    const groupBy = question.groupBy ?? [];
    const filters = filtersOf(question);
    assertDimensions(meter, [...groupBy.filter((name) => name !== 'merchant'), ...Object.keys(filters)]);
    if (builtIn) {
      const isUtc = windows.every(({ from, to }) => isMidnight(from) && isMidnight(to));
      const asked = {
        merchantIds,
        range,
        windows,
        window: question.window,
        isUtc,
        groupBy: groupBy as GroupBy[],
        filters,
      };
      const { rows, coverage } = await readMeasure(builtIn.key, asked, callerId);
      return { rows: rows.map(({ window, keys, value }) => rowOf(windows, window, groupBy, keys, value)), coverage };
    }
    await assertQuarters(windows);
    const coverage = await freshness.cover({ ...range, merchantIds });
    const byElement = meter.aggregation === 'PERCENTILE';
    const values = await queue(callerId, () =>
      db.meters.read(meter as MeterRow, {
        merchantIds,
        starts: windows.map(({ from }) => from),
        end: windows.at(-1)!.to,
        groupBy,
        filters,
        limit: (byElement ? MAX_BUCKETS : MAX_ROWS) + 1,
      }),
    );
    const sums = byElement ? percentilesOf(values, question.percentile) : values;
    if (values.length > (byElement ? MAX_BUCKETS : MAX_ROWS) || sums.length > MAX_ROWS)
      throw new TallyError('TOO_MANY_POINTS', `The answer has more than ${MAX_ROWS} rows.`, {
        details: { maxRows: MAX_ROWS },
      });
    const scale = meter.aggregation === 'COUNT' || meter.aggregation === 'UNIQUE' ? 0 : meter.scale;
    return {
      rows: sums.map(({ window, group, value }) =>
        rowOf(windows, window, groupBy, group, byElement ? value : formatUnits(BigInt(value), scale)),
      ),
      coverage: {
        ...coverage,
        ...(await limitsOf(meter as MeterRow, range, Object.keys(filters), merchantIds, coverage)),
      },
    };
  };

  /** What an answer lacks: history that is still computed or was dropped, and values beyond the limit of their day. */
  async function limitsOf(
    meter: MeterRow,
    range: { startDate: Day; endDate: Day },
    filtered: string[],
    merchantIds: readonly string[] | undefined,
    { complete }: Coverage,
  ): Promise<Partial<Coverage>> {
    const [isComputing, overflowed] = await Promise.all([
      db.meters.isComputing(meter.id, range),
      db.meters.overflowed({ ...range, merchantIds, dimensions: filtered }),
    ]);
    const { historyFrom } = meter;
    return {
      complete: complete && !isComputing,
      ...(overflowed && { overflow: true as const }),
      ...(historyFrom !== null && range.startDate < historyFrom && { knownFrom: historyFrom }),
    };
  }

  /** GRAIN_NOT_KEPT where a window cuts a day whose quarter hours are no longer kept. */
  async function assertQuarters(windows: readonly Period[]): Promise<void> {
    const cuts = [...windows.map(({ from }) => from), windows.at(-1)!.to].filter((ms) => !isMidnight(ms));
    const [first] = cuts;
    if (first === undefined) return;
    const keptFrom = await db.meters.quartersFrom();
    if (dayOf(first) >= keptFrom) return;
    throw new TallyError('GRAIN_NOT_KEPT', `Quarter hours are kept from ${keptFrom}; earlier days only as a whole.`, {
      details: { keptFrom, ask: ['windows of whole UTC days', `a range from ${keptFrom}`], today: dayOf(now()) },
    });
  }
}

const isMidnight = (ms: number) => startOfDay(dayOf(ms)) === ms;

function rowOf(
  windows: readonly Period[],
  window: number,
  groupBy: readonly string[],
  keys: readonly string[],
  value: string,
): MeterAnswer['rows'][number] {
  const { from, to } = windows[window]!;
  const group = Object.fromEntries(groupBy.map((name, index) => [name, keys[index] || 'unknown']));
  return { start: new Date(from).toISOString(), end: new Date(to).toISOString(), group, value };
}

/** The windows of a query, in order, without holes. INVALID_INPUT where the range does not begin and end with one. */
function windowsOf({ window, timeZone, ...range }: MeterQuery): Period[] {
  const moments = range.from !== undefined && range.to !== undefined;
  const [from, to] = moments ? [parseTime(range.from!)!, parseTime(range.to!)!] : [0, 0];
  if (moments && from >= to) throw new TallyError('INVALID_INPUT', '`from` must be before `to`.');
  if (!moments && range.startDate! > range.endDate!)
    throw new TallyError('INVALID_DATE_ORDER', '`startDate` must not be after `endDate`.');
  if (window === 'total') {
    if (moments) return [quarters({ start: from, from, to })];
    const days = periodsOf({ startDate: range.startDate!, endDate: range.endDate! }, 'month', timeZone);
    if (days.length === 0) throw noDays(timeZone);
    return [quarters({ start: days[0]!.from, from: days[0]!.from, to: days.at(-1)!.to })];
  }
  const days = moments
    ? { startDate: localDay(from, timeZone), endDate: localDay(to - 1, timeZone) }
    : { startDate: range.startDate!, endDate: range.endDate! };
  const whole = moments ? wholeDays(days, window) : days;
  const periods = periodsOf(whole, window, timeZone).filter(
    (period) => !moments || (period.to > from && period.from < to),
  );
  const [first, last] = [periods[0], periods.at(-1)];
  if (!first || !last) throw noDays(timeZone);
  // A window that the range cuts begins before it, or would end after it.
  const isCut =
    first.start !== first.from ||
    (moments ? first.from !== from || last.to !== to : endsEarly(last, whole.endDate, window, timeZone));
  if (isCut)
    throw new TallyError(
      'INVALID_INPUT',
      `The range must begin and end with a ${window}${window === 'week' ? ' (Monday to Sunday)' : ''} in ${timeZone}.`,
      { details: { windowStart: new Date(first.start).toISOString() } },
    );
  return periods.map(quarters);
}

const noDays = (timeZone: string) => new TallyError('INVALID_INPUT', `The range has no day in ${timeZone}.`);

/** True where the last window of a range of days goes on after it. */
function endsEarly(last: Period, endDate: Day, window: MeterQuery['window'], timeZone: string): boolean {
  if (window === 'hour' || window === 'day') return false;
  const [whole] = periodsOf({ startDate: endDate, endDate: later(endDate, 31) }, window as 'week' | 'month', timeZone);
  return whole !== undefined && whole.to > last.to;
}

const later = (day: Day, days: number): Day => dayOf(startOfDay(day) + days * 86_400_000);

/** Days around a range that whole windows of it lie in. */
function wholeDays({ startDate, endDate }: { startDate: Day; endDate: Day }, window: MeterQuery['window']) {
  if (window === 'hour' || window === 'day') return { startDate, endDate };
  const month = window === 'month';
  const monday = (day: Day) => later(day, -((new Date(startOfDay(day)).getUTCDay() + 6) % 7));
  return {
    startDate: month ? `${startDate.slice(0, 8)}01` : monday(startDate),
    endDate: month ? later(`${later(`${endDate.slice(0, 8)}01`, 31).slice(0, 8)}01`, -1) : later(monday(endDate), 6),
  };
}

function localDay(ms: number, timeZone: string): Day {
  return new Intl.DateTimeFormat('en-CA', { timeZone, year: 'numeric', month: '2-digit', day: '2-digit' }).format(ms);
}

/** INVALID_INPUT where a window does not begin or end on a quarter hour. */
function quarters(period: Period): Period {
  if (period.from % QUARTER_HOUR_MS === 0 && period.to % QUARTER_HOUR_MS === 0) return period;
  throw new TallyError('INVALID_INPUT', 'The range must begin and end on a quarter hour of UTC.');
}

/** The filters of a query, from both forms; `unknown` is an event without the dimension. */
function filtersOf({ filters = {}, filter = [] }: MeterQuery): Record<string, string[]> {
  const all = new Map<string, Set<string>>();
  const add = (name: string, value: string) => {
    const stored = value === 'unknown' ? '' : value;
    all.set(name, (all.get(name) ?? new Set()).add(stored).add(stored.normalize('NFC')));
  };
  for (const [name, values] of Object.entries(filters)) for (const value of values) add(name, value);
  for (const text of filter) {
    const at = text.indexOf('=');
    add(text.slice(0, at), text.slice(at + 1));
  }
  return Object.fromEntries([...all].map(([name, values]) => [name, [...values]]));
}

function assertDimensions(
  { key, dimensions }: { key: string; dimensions: readonly string[] },
  asked: readonly string[],
): void {
  const unknown = asked.find((name) => !dimensions.includes(name));
  if (unknown === undefined) return;
  const has = dimensions.length === 0 ? 'no dimensions' : `the dimensions ${dimensions.join(', ')}`;
  throw new TallyError('INVALID_INPUT', `The meter ${key} has ${has}; it cannot be asked by ${unknown}.`, {
    details: { dimensions },
  });
}

/** Digits of a percentile: its sketch is within 1 %. */
const PERCENTILE_DIGITS = 6;

function percentilesOf(values: readonly MeterValue[], percentile: number): MeterValue[] {
  const sketches = new Map<string, { of: MeterValue; buckets: Map<string, bigint> }>();
  for (const value of values) {
    const key = JSON.stringify([value.window, value.group]);
    const sketch = sketches.get(key) ?? { of: value, buckets: new Map() };
    sketch.buckets.set(value.element, BigInt(value.value));
    sketches.set(key, sketch);
  }
  return [...sketches.values()].map(({ of, buckets }) => {
    const [found] = quantilesOf(buckets, [percentile / 100]);
    const digits = Math.max(0, PERCENTILE_DIGITS - 1 - Math.floor(Math.log10(Math.abs(found!) || 1)));
    const text = found!.toFixed(Math.min(9, digits));
    return { ...of, value: text.includes('.') ? text.replace(/\.?0+$/, '') : text, element: '' };
  });
}
