import { addDays, type Day, dayOf, monthOf, QUARTER_HOUR_MS, startOfDay, TallyError } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import type { MeterRow } from '../entities/meter.ts';
import { atOneMoment } from '../one-moment.ts';
import { estimatedRows } from '../query-plan.ts';
import { DateText } from '../rows.ts';
import { type Bind, bindings } from '../run-sql.ts';
import { exactly, type SumOf } from '../unit-sums.ts';
import { propertyOf, rowsOf } from './event-rows.ts';
import type { Edge, EventScope } from './event-scope.ts';
import { AROUND, FOLDED, finerRows, type Grain, kindOf, START_AROUND } from './rollup-sql.ts';

export type MeterScope = {
  merchantIds?: readonly string[] | undefined;
  /**
   * The starts of the windows, in order; the last ends at `end`. All are on quarter hours; a single window may begin and
   * end at any millisecond of days whose events are in the journal.
   */
  starts: readonly number[];
  end: number;
  /** Dimensions of the meter, or `merchant`. */
  groupBy: readonly string[];
  /** The wanted values per dimension; `''` is an event without it. */
  filters: Readonly<Record<string, readonly string[]>>;
  /** The limit of returned rows. */
  limit: number;
  /** The limit of rows to read, by the estimate of Postgres; default: none. */
  maxRows?: number;
  /** Only what was known at this moment: read from the journal, which must have all of the range. */
  asKnownOn?: string | undefined;
};

/** A sum of a window, counted from 0. `element`: a bucket of PERCENTILE. Amounts are whole units as text. */
export type MeterValue = { window: number; group: string[]; element: string; value: string };

export type MeterReader = {
  /**
   * Reads a meter by windows and dimensions, at one moment: clean years, trimesters, months and days as a whole, finer rows for
   * dirty ones and at window borders, plus what is not derived yet. Throws TOO_MANY_ROWS, before it reads any, if there
   * are more than `maxRows`; GRAIN_NOT_KEPT if a window cuts a quarter hour whose events were dropped.
   */
  read(meter: MeterRow, scope: MeterScope): Promise<MeterValue[]>;
  /** The first day with quarter hours. */
  quartersFrom(): Promise<Day>;
  /** Returns whether days of the range are still to be computed for the meter. */
  isComputing(meterId: number, range: { startDate: Day; endDate: Day }): Promise<boolean>;
  /** Returns whether one of these dimensions exceeded its limit on a day of these merchants, or of any. */
  overflowed(scope: {
    startDate: Day;
    endDate: Day;
    merchantIds?: readonly string[] | undefined;
    dimensions: readonly string[];
  }): Promise<boolean>;
};

/** The columns of an answer, null if it is empty: as 10,000 rows they cost the driver eight times the CPU. */
const ValueColumns = z.object({
  windows: z.array(z.number().int()).nullish(),
  groups: z.array(z.array(z.string()).nullable()),
  elements: z.array(z.string()).nullish(),
  /** Separated by commas: JSON would take longer to read. */
  amounts: z.string().nullable(),
});
const FoundRow = z.object({ found: z.boolean() });

type DayRange = { first: Day; last: Day };

/** The days of a range by the rollup that they are read from. */
export type ReadPlan = {
  /** Ranges of whole periods, coarsest possible, that lie in one window each: from the first to the last day. */
  whole: Record<Grain, DayRange[]>;
  /** Days that contain a window border. */
  cut: Day[];
};

const COARSEST_FIRST = FOLDED.toReversed();
const noneWhole = (): ReadPlan['whole'] => ({ year: [], trimester: [], month: [], day: [] });

/** Chooses the rollups of a range. Pure, so that tests can check plans. */
export function planMeter({ starts, end }: Pick<MeterScope, 'starts' | 'end'>): ReadPlan {
  const plan: ReadPlan = { whole: noneWhole(), cut: [] };
  const bounds = [...starts, end];
  let next = 0;
  const isWhole = (from: number, to: number): boolean => {
    while (next < bounds.length && bounds[next]! <= from) next++;
    return from >= bounds[0]! && to <= end && (next >= bounds.length || bounds[next]! >= to);
  };
  const lastDay = dayOf(end - 1);
  for (let day = dayOf(bounds[0]!); day <= lastDay; ) {
    const found = COARSEST_FIRST.map(({ grain, periodOf }) => ({ grain, ...periodOf(day) })).find(
      ({ startDate, endDate }) => startDate === day && isWhole(startOfDay(day), startOfDay(addDays(endDate, 1))),
    );
    if (found) extend(plan.whole[found.grain], { first: day, last: found.endDate });
    else plan.cut.push(day);
    day = addDays(found?.endDate ?? day, 1);
  }
  return plan;
}

/** Adds a range after others: to the last one if it follows it. */
function extend(ranges: DayRange[], { first, last }: DayRange): void {
  const before = ranges.at(-1);
  if (before && addDays(before.last, 1) === first) before.last = last;
  else ranges.push({ first, last });
}

const boundsOf = (from: number, to: number) => ({
  from: new Date(from).toISOString(),
  until: new Date(to).toISOString(),
});

/** Splits a range into whole quarter hours, if it has any, and parts of one at its ends. */
export function splitQuarters(from: number, to: number): { inner: { from: number; to: number }; edges: Edge[] } {
  const inner = {
    from: Math.ceil(from / QUARTER_HOUR_MS) * QUARTER_HOUR_MS,
    to: Math.floor(to / QUARTER_HOUR_MS) * QUARTER_HOUR_MS,
  };
  const outer =
    inner.from > inner.to
      ? [[from, to]]
      : [
          [from, inner.from],
          [inner.to, to],
        ];
  const edges = outer
    .filter(([start, end]) => start! < end!)
    .map(([start, end]) => ({ date: dayOf(start!), ...boundsOf(start!, end!) }));
  return { inner, edges };
}

const NO_ROLLUPS: ReadPlan = { whole: noneWhole(), cut: [] };

/** More such days than this are read as one range. */
const CUT_ONE_BY_ONE = 40;

/** Reads what meters have counted. */
export function createMeterReader(dataSource: DataSource): MeterReader {
  /** Throws TOO_MANY_ROWS if Postgres estimates that the rollups of a plan have more than `maxRows` rows. */
  async function assertRows(meter: MeterRow, scope: MeterScope, { whole, cut }: ReadPlan, maxRows: number) {
    const { bind, values } = bindings();
    const merchantIds = merchantsOf(meter, scope);
    const where = [
      `meter_id = ${meter.id}`,
      ...(merchantIds ? [`merchant_id = any(${bind(merchantIds)}::text[])`] : []),
      ...Object.entries(scope.filters).map(
        ([name, wanted]) => `${placeOf(meter, name)} = any(${bind(wanted)}::text[])`,
      ),
    ].join(' and ');
    const parts = FOLDED.flatMap(({ grain, table, column }) =>
      whole[grain].map(
        ({ first, last }) =>
          `select from ${table} where ${where} and ${column} between ${bind(first)}::date and ${bind(last)}::date`,
      ),
    );
    const cutRanges: DayRange[] = [];
    for (const day of cut) extend(cutRanges, { first: day, last: day });
    for (const { first, last } of cutRanges)
      parts.push(`select from meter_quarters where ${where} and bucket >= ${bind(`${first}T00:00:00Z`)}::timestamptz
        and bucket < ${bind(`${addDays(last, 1)}T00:00:00Z`)}::timestamptz`);
    if (parts.length === 0) return;
    const [row] = (await dataSource.query(`explain (format json) ${parts.join(' union all ')}`, values)) as unknown[];
    const estimated = estimatedRows(row);
    if (estimated <= maxRows) return;
    throw new TallyError(
      'TOO_MANY_ROWS',
      `The query would read about ${estimated} rows; at most ${maxRows} are read.`,
      {
        details: { estimatedRows: estimated, maxRows },
      },
    );
  }

  async function assertEvents(days: readonly Day[]): Promise<void> {
    if (days.length === 0) return;
    const closed = (await dataSource.query('select date from usage_closed_days where date = any($1::date[]) limit 1', [
      days,
    ])) as unknown[];
    if (closed.length === 0) return;
    const { date } = z.object({ date: DateText }).parse(closed[0]);
    throw new TallyError('GRAIN_NOT_KEPT', `The events of ${date} are no longer kept; only whole quarter hours are.`, {
      details: { day: date, ask: ['a range that begins and ends on quarter hours'] },
    });
  }

  return {
    async read(meter, scope) {
      const { starts, end, asKnownOn, maxRows } = scope;
      const merchantIds = merchantsOf(meter, scope);
      const { inner, edges } = splitQuarters(starts[0]!, end);
      const isRollup = asKnownOn === undefined && inner.from < inner.to;
      const plan = isRollup ? planMeter({ starts: [inner.from, ...starts.slice(1)], end: inner.to }) : NO_ROLLUPS;
      const [startDate, endDate] = [dayOf(starts[0]!), dayOf(end - 1)];
      const [checksValues] = await Promise.all([
        this.overflowed({ startDate, endDate, merchantIds, dimensions: meter.dimensions }),
        maxRows === undefined ? undefined : assertRows(meter, scope, plan, maxRows),
      ]);
      const [row] = (await exactly((sum) => {
        const { text, values } = valuesStatement(meter, scope, { plan, inner, edges, checksValues, sum });
        return atOneMoment(dataSource, (runner) => runner.query(text, values));
      })) as unknown[];
      // Afterwards, so that no day is closed in between.
      await assertEvents(edges.map(({ date }) => date));
      const { windows, groups, elements, amounts } = ValueColumns.parse(row);
      return (amounts?.split(',') ?? []).map((value, index) => ({
        window: windows?.[index] ?? 0,
        group: groups.map((group) => group![index]!),
        element: elements?.[index] ?? '',
        value,
      }));
    },

    async quartersFrom() {
      const [row] = (await dataSource.query('select quarters_from as date from meter_state')) as unknown[];
      return z.object({ date: DateText }).parse(row).date;
    },

    async isComputing(meterId, { startDate, endDate }) {
      const [row] = (await dataSource.query(
        `select exists (
           select from meter_history where meter_id = $1 and not done and date between $2 and $3) as found`,
        [meterId, startDate, endDate],
      )) as unknown[];
      return FoundRow.parse(row).found;
    },

    async overflowed({ startDate, endDate, merchantIds, dimensions }) {
      const properties = dimensions.flatMap((name) => propertyOf(name) ?? []);
      if (properties.length === 0) return false;
      const [row] = (await dataSource.query(
        `select exists (
           select from meter_overflows
           where dimension = any($1) and date between $2 and $3 and ($4::text[] is null or merchant_id = any($4))) as found`,
        [properties, startDate, endDate, merchantIds ?? null],
      )) as unknown[];
      return FoundRow.parse(row).found;
    },
  };
}

/** The merchants whose rows are read; undefined: all. */
const merchantsOf = (meter: MeterRow, { merchantIds }: Pick<MeterScope, 'merchantIds'>) =>
  meter.merchantId === '' ? merchantIds : [meter.merchantId];

/** What a query about a meter reads. */
type Reading = {
  plan: ReadPlan;
  /** The whole quarter hours, in ms. */
  inner: { from: number; to: number };
  edges: readonly Edge[];
  /** Returns whether a value of a property may exceed the limit of its day. */
  checksValues: boolean;
  sum: SumOf;
};

const midnight = (text: string) => `${text}::timestamp at time zone 'UTC'`;

const placeOf = (meter: MeterRow, dimension: string) => `d${meter.dimensions.indexOf(dimension) + 1}`;

/** Writes the query of a plan. Its one row has each column of the answer as a list. */
function valuesStatement(meter: MeterRow, scope: MeterScope, reading: Reading): { text: string; values: unknown[] } {
  const { bind, values } = bindings();
  const selection = selectionOf(meter, scope, reading, bind);
  const bounds = boundsOf(reading.inner.from, reading.inner.to);
  const quarters = { first: `${bind(bounds.from)}::timestamptz`, until: `${bind(bounds.until)}::timestamptz` };
  const whole = selectWhole(selection, reading.plan.whole);
  const cut = selectCut(selection, reading.plan.cut, quarters);
  const { rows, pending } = selectPending(selection, scope, reading, quarters);
  const text = `
    with ${marksOf(selection, scope)},
    ${rows},
    parts as (
      ${[...whole, ...cut, pending].join('\n union all\n')}
    )
    ${answerOf(selection, scope, reading.sum)}`;
  return { text, values };
}

/** What the selects of a query share. */
type Selection = {
  meter: MeterRow;
  bind: Bind;
  /** The merchants as an array, if they are limited. */
  merchants: string | undefined;
  /** Whether there is only one. */
  isOneMerchant: boolean;
  /** Restricts the rows of a table to the merchants. */
  ofMerchants(alias: string): string;
  /** Restricts rows to the wanted dimensions. */
  ofFilters: string;
  /** Lists the columns that the answer needs. `moment`: when a row counts. */
  columns(alias: string, moment: string): string;
  isWithin(column: string, range: DayRange): string;
};

function selectionOf(
  meter: MeterRow,
  { starts, groupBy, filters, ...scope }: MeterScope,
  { sum }: Pick<Reading, 'sum'>,
  bind: Bind,
): Selection {
  const merchantIds = merchantsOf(meter, scope);
  const merchants = merchantIds ? `${bind(merchantIds)}::text[]` : undefined;
  const kind = kindOf(meter);
  const isUnique = meter.aggregation === 'UNIQUE';
  const places = new Set(groupBy.filter((name) => name !== 'merchant').map((name) => placeOf(meter, name)));
  return {
    meter,
    bind,
    merchants,
    isOneMerchant: merchantIds?.length === 1,
    ofMerchants: (alias) => (merchants ? `and ${alias}.merchant_id = any(${merchants})` : ''),
    ofFilters: Object.entries(filters)
      .map(([name, wanted]) => `and ${placeOf(meter, name)} = any(${bind(wanted)}::text[])`)
      .join(' '),
    // Only what the query needs: a column costs a tenth of a row.
    columns: (alias, moment) =>
      [
        ...(isUnique || groupBy.includes('merchant') ? [`${alias}.merchant_id`] : []),
        ...(starts.length > 1 ? [`${moment} as moment`] : []),
        ...[...places].map((name) => `${alias}.${name}`),
        ...(isUnique || meter.aggregation === 'PERCENTILE' ? [`${alias}.element`] : []),
        isBigint(meter, sum) ? `${alias}.value::bigint as value` : `${alias}.value`,
        ...(kind === 'LATEST' ? [`${alias}.at`, `${alias}.event_id`] : []),
      ].join(', '),
    isWithin: (column, { first, last }) => `${column} between ${bind(first)}::date and ${bind(last)}::date`,
  };
}

const isBigint = (meter: MeterRow, sum: SumOf) => kindOf(meter) === 'add' && sum === 'units_sum';

/** The dirty periods of the range, as `marks`. */
function marksOf({ bind, merchants }: Selection, { starts, end }: MeterScope): string {
  const [first, last] = [dayOf(starts[0]!), dayOf(end - 1)];
  const ofMerchants = merchants ? `and merchant_id = any(${merchants})` : '';
  return `marks as materialized (
      select merchant_id, grain, period from meter_marks
      where period between ${bind(monthOf(first).startDate)}::date and ${bind(last)}::date ${ofMerchants}
      union
      select merchant_id, coarser, ${START_AROUND} from meter_marks join ${AROUND} using (grain)
      where period between ${bind(first)}::date and ${bind(last)}::date ${ofMerchants}
    )`;
}

/** Selects whole periods: clean ones from their rollup, dirty ones from the next finer rollup. */
function selectWhole(selection: Selection, whole: ReadPlan['whole']): string[] {
  const { meter, columns, isWithin, ofMerchants, ofFilters } = selection;
  // Marks of one merchant are an array: a join of 120,000 rows with none cost a fifth of the query.
  const isMarked = (grain: string, alias: string, period: string) =>
    selection.isOneMerchant
      ? `${period} = any(array(select period from marks where grain = '${grain}'))`
      : `exists (select from marks where marks.grain = '${grain}' and marks.merchant_id = ${alias}.merchant_id
      and marks.period = ${period})`;
  const parts: string[] = [];
  /** Ranges of periods that may be dirty: of this grain, and those inside of coarser ones. */
  const reachable: DayRange[] = [];
  for (const folded of COARSEST_FIRST) {
    const { grain, table, column } = folded;
    for (const range of whole[grain])
      parts.push(`select ${columns('r', midnight(`r.${column}`))} from ${table} as r
        where r.meter_id = ${meter.id} ${ofMerchants('r')} and ${isWithin(`r.${column}`, range)}
          and not ${isMarked(grain, 'r', `r.${column}`)} ${ofFilters}`);
    reachable.push(...whole[grain]);
    if (reachable.length === 0) continue;
    const ranges = reachable.map((range) => isWithin('dirty.period', range)).join(' or ');
    const next = FOLDED.find((each) => each.table === folded.finer);
    // The finer rows of dirty periods, but not those that are dirty themselves.
    const moment = next ? midnight(`f.${next.column}`) : 'f.bucket';
    const isClean = next ? `and not ${isMarked(next.grain, 'f', `f.${next.column}`)}` : '';
    parts.push(`select ${columns('f', moment)} from marks as dirty
        join ${folded.finer} as f on f.meter_id = ${meter.id} and f.merchant_id = dirty.merchant_id
          and ${finerRows(folded, 'f', ['dirty.period', 'dirty.period'])}
        where dirty.grain = '${grain}' and (${ranges}) ${isClean} ${ofFilters}`);
  }
  return parts;
}

type Quarters = { first: string; until: string };

/** Selects the quarter hours of days that contain a window border. */
function selectCut({ meter, bind, columns, ofMerchants, ofFilters }: Selection, cut: Day[], quarters: Quarters) {
  const rows = `select ${columns('q', 'q.bucket')} from meter_quarters as q
      where q.meter_id = ${meter.id} ${ofMerchants('q')}`;
  if (cut.length > CUT_ONE_BY_ONE)
    return [
      `${rows} and q.bucket >= ${quarters.first} and q.bucket < ${quarters.until}
        and (q.bucket at time zone 'UTC')::date = any(${bind(cut)}::date[]) ${ofFilters}`,
    ];
  return cut.map((day) => {
    const [start, end] = [midnight(`${bind(day)}::date`), midnight(`(${bind(day)}::date + 1)`)];
    return `${rows} and q.bucket >= greatest(${quarters.first}, ${start})
        and q.bucket < least(${quarters.until}, ${end}) ${ofFilters}`;
  });
}

/** Selects what the rollups lack, `pending`, from `rows`, which are made of events. */
function selectPending(
  { meter, bind, columns, ofFilters }: Selection,
  { starts, end, asKnownOn, ...scope }: MeterScope,
  { inner, edges, checksValues }: Reading,
  { first, until }: Quarters,
): { rows: string; pending: string } {
  const days = { merchantIds: merchantsOf(meter, scope), first: dayOf(starts[0]!), last: dayOf(end - 1) };
  const bounds = boundsOf(inner.from, inner.to);
  const events: EventScope =
    asKnownOn === undefined
      ? { of: 'pending', ...days, ...(edges.length > 0 && { inner: bounds, edges }) }
      : { of: 'known', ...days, on: asKnownOn, range: boundsOf(starts[0]!, end) };
  const rows = rowsOf([meter], { scope: events, checksValues }, bind);
  const ofEdges = edges.map(
    ({ from, until: to }) =>
      ` or p.bucket > ${bind(from)}::timestamptz - interval '15 minutes' and p.bucket < ${bind(to)}::timestamptz`,
  );
  const pending = `select ${columns('p', 'p.bucket')} from rows as p
    where (p.bucket >= ${first} and p.bucket < ${until}${ofEdges.join('')}) ${ofFilters}`;
  return { rows, pending };
}

/** Groups `parts` by window and dimensions, and sums them up. */
function answerOf({ meter, bind }: Selection, { starts, groupBy, limit }: MeterScope, sum: SumOf): string {
  const kind = kindOf(meter);
  const isUnique = meter.aggregation === 'UNIQUE';
  const keys = groupBy.map((name) => (name === 'merchant' ? 'merchant_id' : placeOf(meter, name)));
  const slots = starts.length === 1 ? [] : ['slot'];
  const elements = meter.aggregation === 'PERCENTILE' ? ['element'] : [];
  const grouped = [...slots, ...keys, ...elements];
  const named = keys.map((key, index) => `${key} as k${index}`);
  const slot =
    starts.length === 1
      ? ''
      : `width_bucket(moment, ${bind(starts.map((ms) => new Date(ms).toISOString()))}::timestamptz[]) - 1 as slot,`;
  const summed =
    kind === 'add'
      ? `${sum}(value)`
      : kind === 'LATEST'
        ? '(array_agg(value order by at desc, event_id desc))[1]'
        : `${kind.toLowerCase()}(value)`;
  const inSlots = `select ${slot} parts.* from parts`;
  // The same value in two merchants is two values.
  const source = isUnique
    ? `(select distinct ${[...slots, ...new Set(['merchant_id', ...keys]), 'element'].join(', ')} from (${inSlots}) as each)`
    : `(${inSlots})`;
  return `select
      ${slots.map((name) => `json_agg(${name}) as windows,`).join('')}
      ${elements.map((name) => `json_agg(${name}) as elements,`).join('')}
      json_build_array(${keys.map((_, index) => `json_agg(k${index})`).join(', ')}) as groups,
      string_agg(value, ',') as amounts
    from (
      select ${[...slots, ...named, ...elements, ''].join(', ')}
        ${isUnique ? 'count(*)' : isBigint(meter, sum) ? summed : `trim_scale(${summed})`}::text as value
      from ${source} as placed
      ${grouped.length > 0 ? `group by ${grouped.join(', ')} order by ${grouped.join(', ')}` : 'having count(*) > 0'}
      limit ${bind(limit)}
    ) as answer`;
}
