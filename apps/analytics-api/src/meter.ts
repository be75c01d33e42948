import {
  BUILT_IN_METERS,
  type Coverage,
  type Day,
  type DayRange,
  dayOf,
  formatUnits,
  type GroupBy,
  type MeterQuery,
  TallyError,
} from '@tally/contracts';
import { type Db, type MeterRow, type MeterValue, quantilesOf, type StoredMeter, unknownMeter } from '@tally/db';
import { type FairQueue, readyJson, textOfReady } from '@tally/service';
import { type Cache, finished } from './cache.ts';
import { assertRange } from './dates.ts';
import { covering } from './documents.ts';
import type { Freshness } from './fresh.ts';
import { assertKnown, type KnownOn, knownOn } from './known-on.ts';
import { measureFilters, type ReadMeasure } from './measure-meter.ts';
import { isMidnight, windowsOf } from './meter-windows.ts';
import type { Period } from './zone.ts';

export type MeterAnswer = {
  rows: { start: string; end: string; group: Record<string, string>; value: string }[];
  coverage: Coverage;
};

export type ReadMeter = (question: MeterQuery, callerId: string) => Promise<MeterAnswer>;

/** The limit of rows in one answer. */
const MAX_ROWS = 100_000;
/** A row of PERCENTILE is computed from its buckets. */
const MAX_BUCKETS = 1_000_000;

/** The query, with its parsed windows and filters. */
type Asked = {
  merchantIds: string[] | undefined;
  range: { startDate: Day; endDate: Day };
  windows: readonly Period[];
  groupBy: readonly string[];
  filters: Readonly<Record<string, readonly string[]>>;
  percentile: number;
} & KnownOn;

/** Answers queries about meters, only from their rollups. */
export function createReadMeter({
  db,
  readMeasure,
  freshness,
  cache,
  queue,
  maxDays,
  maxRows,
  now,
}: {
  db: Pick<Db, 'meters' | 'usage'>;
  /** Answers queries about the built-in meters. */
  readMeasure: ReadMeasure;
  freshness: Freshness;
  cache: Cache;
  queue: FairQueue;
  maxDays: number;
  /** The limit of rows of rollups that a query reads. */
  maxRows: number;
  now: () => number;
}): ReadMeter {
  /** Returns the meter for every merchant with this key, else that of the query's only merchant. */
  async function find(key: string, merchantIds: readonly string[] | undefined): Promise<StoredMeter> {
    const [own] = merchantIds?.length === 1 ? merchantIds : [];
    const found =
      (own === undefined ? undefined : await db.meters.find({ key, merchantId: own })) ??
      (await db.meters.find({ key, merchantId: '' }));
    if (found) return found;
    throw unknownMeter(key);
  }

  return async (question, callerId) => {
    const builtIn = BUILT_IN_METERS.find(({ key }) => key === question.meter);
    const windows = windowsOf(question, { anyMoment: !builtIn });
    const range = { startDate: dayOf(windows[0]!.from), endDate: dayOf(windows.at(-1)!.to - 1) };
    assertRange(range, maxDays);
    const { merchantIds, groupBy = [], percentile, asKnownOn } = question;
    const knownFrom = await assertKnown(question, range, { db, now });
    const filters = filtersOf(question);
    const asked: Asked = { merchantIds, range, windows, groupBy, filters, percentile, asKnownOn };
    const dimensions = [...groupBy.filter((name) => name !== 'merchant'), ...Object.keys(asked.filters)];
    const meter = builtIn ?? (await find(question.meter, merchantIds));
    assertDimensions(meter, dimensions);
    if (!builtIn) {
      await assertQuarters(windows);
      if (knownFrom !== null) throw journalDropped(range);
      return ofMeter(meter as StoredMeter, asked, callerId, { keepZeros: true });
    }
    const isUtc = windows.every(({ from, to }) => isMidnight(from) && isMidnight(to));
    const declared = isUtc || asKnownOn !== undefined ? undefined : await declaredFor(builtIn.key, dimensions, asked);
    if (declared) return ofMeter(declared, asked, callerId, { keepZeros: false });
    const measured = { ...asked, window: question.window, isUtc, groupBy: groupBy as GroupBy[] };
    const coverage = knownOn(await freshness.cover(measureFilters(measured)), question);
    const compute = async () => {
      const months = isUtc ? monthsOf(asked) : [];
      // Throws TOO_MANY_POINTS, as the days would later.
      if (months.length > 0) await readMeasure(builtIn.key, { ...measured, windows: months, window: 'month' });
      const { rows, ...more } = await readMeasure(builtIn.key, measured);
      return { sent: answerOf(rows, windows, groupBy), more };
    };
    const scope = { ...range, merchantIds };
    const { text, more } = await cache.sent(
      { kind: 'meter', question: keyOf(builtIn.key, asked), scope, callerId },
      compute,
    );
    return finished(text, { coverage: covering(coverage, more.imported, more.unknown) });
  };

  /** Answers from a declared meter. A measure has no row for a sum of 0. */
  async function ofMeter(
    meter: StoredMeter,
    asked: Asked,
    callerId: string,
    { keepZeros }: { keepZeros: boolean },
  ): Promise<MeterAnswer> {
    const { range, merchantIds, windows, groupBy, filters, percentile, asKnownOn } = asked;
    const coverage = knownOn(await freshness.cover(measureFilters(asked)), asked);
    // Checked before the sums are read: history computed until then is in them.
    const limits = await limitsOf(meter, range, Object.keys(filters), merchantIds, coverage);
    const byElement = meter.aggregation === 'PERCENTILE';
    const limit = byElement ? MAX_BUCKETS : MAX_ROWS;
    const compute = async () => {
      const read = async (of: readonly Period[]) => {
        const [starts, end] = [of.map(({ from }) => from), of.at(-1)!.to];
        const scope = { merchantIds, starts, end, groupBy, filters, limit: limit + 1, asKnownOn, maxRows };
        const values = await db.meters.read(meter, scope);
        const sums = byElement ? percentilesOf(values, percentile) : values;
        if (values.length > limit || sums.length > MAX_ROWS)
          throw new TallyError('TOO_MANY_POINTS', `The answer has more than ${MAX_ROWS} rows.`, {
            details: { maxRows: MAX_ROWS },
          });
        return sums;
      };
      const months = monthsOf(asked);
      if (months.length > 0) await read(months);
      const sums = await read(windows);
      const scale = meter.aggregation === 'COUNT' || meter.aggregation === 'UNIQUE' ? 0 : meter.scale;
      const kept = keepZeros ? sums : sums.filter(({ value }) => value !== '0');
      const isWhole = byElement || scale === 0;
      const quantityOf = isWhole ? undefined : (units: string) => formatUnits(BigInt(units), scale);
      return { sent: answerOf(kept, windows, groupBy, quantityOf), more: null };
    };
    // History still being computed changes an answer, and no version covers that.
    const question = [keepZeros, keyOf(meter.id, asked)];
    const text =
      limits.complete === coverage.complete
        ? (await cache.sent({ kind: 'meter', question, scope: { ...range, merchantIds }, callerId }, compute)).text
        : textOfReady((await queue(callerId, compute)).sent)!;
    return finished(text, { coverage: { ...coverage, ...limits } });
  }

  /**
   * Finds a declared meter that counts the same as a built-in one by these dimensions. The measures have no quarter
   * hours by user or API key, so without such a meter, windows that cut days are read from the events.
   */
  async function declaredFor(
    key: string,
    dimensions: readonly string[],
    { range, merchantIds, windows }: Asked,
  ): Promise<StoredMeter | undefined> {
    if (!dimensions.includes('user') && !dimensions.includes('apiKey')) return undefined;
    const [own] = merchantIds?.length === 1 ? merchantIds : [];
    const found = (await db.meters.list(own ?? '')).find(
      ({ aggregation, metricType, eventType, filters, historyFrom, history, ...meter }) =>
        ((aggregation === 'SUM' && metricType === key) || (aggregation === 'COUNT' && key === 'requests')) &&
        eventType === null &&
        Object.keys(filters).length === 0 &&
        dimensions.every((name) => meter.dimensions.includes(name)) &&
        (historyFrom === null || historyFrom <= range.startDate) &&
        history.daysDone === history.days,
    );
    if (!found) return undefined;
    const cut = windows.flatMap(({ from, to }) => [from, to]).find((ms) => !isMidnight(ms));
    return cut === undefined || dayOf(cut) >= (await db.meters.quartersFrom()) ? found : undefined;
  }

  /**
   * Returns what an answer lacks: history that is still computed or was dropped, and values beyond the limit of their
   * day.
   */
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

  /** Throws GRAIN_NOT_KEPT if a window cuts a day whose quarter hours were dropped. */
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

/**
 * Returns the whole months of a query that groups by shorter windows, to be counted first: a group that a month has, at
 * least one of its windows has. So too many rows are found in a small part of what there is to read. None from the
 * journal, which has no months.
 */
function monthsOf({ windows, groupBy, asKnownOn }: Asked): Period[] {
  if (groupBy.length === 0 || asKnownOn !== undefined) return [];
  const borders = [...windows.map(({ from }) => from), windows.at(-1)!.to].filter(
    (ms) => isMidnight(ms) && dayOf(ms).endsWith('-01'),
  );
  const months = borders.slice(1).map((to, index) => ({ start: borders[index]!, from: borders[index]!, to }));
  return months.length * 2 < windows.length ? months : [];
}

/** The error of a declared meter, whose earlier answers are read from the events. */
const journalDropped = ({ startDate, endDate }: DayRange) =>
  new TallyError(
    'JOURNAL_DROPPED',
    `Some events of ${startDate} to ${endDate} are no longer in the journal, which asKnownOn needs.`,
  );

/** Returns everything that an answer depends on beside the numbers of its days. */
const keyOf = (meter: string | number, { windows, groupBy, filters, merchantIds, percentile, asKnownOn }: Asked) => [
  meter,
  windows.map(({ from, to }) => [from, to]),
  groupBy,
  filters,
  merchantIds,
  percentile,
  asKnownOn,
];

/**
 * Presents the rows of an answer, as JSON: objects for 10,000 rows took 30 ms. `quantityOf` prints a value; by default it
 * is one already.
 */
function answerOf(
  rows: readonly { window: number; group: readonly string[]; value: string }[],
  windows: readonly Period[],
  groupBy: readonly string[],
  quantityOf: (value: string) => string = (value) => value,
): Pick<MeterAnswer, 'rows'> {
  const heads = windows.map(({ from, to }) => {
    const times = { start: new Date(from).toISOString(), end: new Date(to).toISOString() };
    return `${JSON.stringify(times).slice(0, -1)},"group":{`;
  });
  const names = groupBy.map((name, index) => `${index === 0 ? '' : ','}${JSON.stringify(name)}:`);
  let text = '';
  for (const { window, group, value } of rows) {
    text += text === '' ? heads[window] : `,${heads[window]}`;
    for (let index = 0; index < names.length; index++) text += names[index] + JSON.stringify(group[index] || 'unknown');
    text += `},"value":"${quantityOf(value)}"}`;
  }
  return readyJson(`{"rows":[${text}]}`);
}

/** Merges both forms of a query's filters; `unknown` is an event without the dimension. */
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
  throw new TallyError('INVALID_INPUT', `The meter ${key} has ${has}; it cannot be queried by ${unknown}.`, {
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
