import { addDays, type Day } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { isDistributed } from '../distribution.ts';
import { MeterEntity, type MeterRow } from '../entities/meter.ts';
import type { Partitions } from '../journal/partitions.ts';
import type { DayVersion } from '../rollups/checks-store.ts';
import { DateText, type MerchantDay } from '../rows.ts';
import { type Bind, bindings, type Executor, runSql } from '../run-sql.ts';
import { inTransaction } from '../transactions.ts';
import { IsNull } from '../typeorm.ts';
import { rowsOf } from './event-rows.ts';
import type { EventScope, QuarterHours } from './event-scope.ts';
import { hasOverflows } from './limited-values.ts';
import { markDirty } from './meter-folds.ts';
import { activeMeters, firstDayOfQuarters, lockMeters } from './meter-state.ts';
import {
  AROUND,
  byKind,
  FOLDED,
  type Folded,
  finerRows,
  foldedRows,
  KEYS,
  type Kind,
  PERIOD,
  type RollupTable,
  START_AROUND,
} from './rollup-sql.ts';

/** Rows of a meter's rollup that differ from their source: the journal, or the finer rollup. */
export type MeterDrift = MerchantDay & {
  /** The key of the meter. */
  meter: string;
  /** Decimals of its amounts. */
  scale: number;
  rollup: RollupTable;
  /** The number of differing rows. */
  rows: number;
  /** One differing row, in units; null on a side without such a row. */
  first: { period: string; group: string[]; journal: string | null; stored: string | null };
};

export type MeterComparison = {
  drift: MeterDrift[];
  /** The number of compared rows. */
  rows: number;
};

export type MeterChecks = {
  /**
   * Compares the rollups of all meters with the journal, for merchants' day or some quarter hours of it. `repair`
   * rebuilds the rows that differ. `pending`: merchants with events of the day that are not derived yet, which are
   * skipped. A day whose events were dropped has nothing to compare.
   */
  compareDay(scope: ScopeOfDay, repair: boolean): Promise<MeterComparison & { pending: ReadonlySet<string> }>;
  /**
   * Compares days with their quarter hours, and coarser periods of the range with the next finer rollup. `repair`
   * marks differing periods: readers use the finer rows at once, and the next fold rebuilds the periods.
   */
  compareFolds(scope: ScopeOfPeriods, repair: boolean): Promise<MeterComparison>;
  /**
   * Returns the next days that changed since they were last found correct, and their number of events; at most `limit`.
   */
  unchecked(
    range: { startDate: Day; endDate: Day },
    after: MerchantDay,
    limit: number,
  ): Promise<(DayVersion & { events: number })[]>;
  /** Records that these versions of days were found correct. */
  markChecked(days: readonly DayVersion[]): Promise<void>;
  /** Deletes the records of days before this one. */
  forgetChecked(before: Day): Promise<void>;
  /** Counts the events of each of these merchants on a day. */
  dayEvents(merchantIds: readonly string[], date: Day): Promise<Map<string, number>>;
  /** Returns every merchant with rows in a rollup of meters. */
  merchants(): Promise<string[]>;
};

type ScopeOfDay = { merchantIds: readonly string[]; date: Day; within?: QuarterHours | undefined };
type ScopeOfPeriods = { merchantIds: readonly string[]; startDate: Day; endDate: Day };

/** Rebuilds a merchant's day of meters, or some quarter hours of it, from the journal. */
type Recompute = (
  transaction: Executor,
  meters: readonly MeterRow[],
  day: MerchantDay & { within?: QuarterHours | undefined },
) => Promise<void>;

const DayRow = z
  .object({ merchant_id: z.string(), date: DateText, changes: z.string(), events: z.string().transform(Number) })
  .transform(({ merchant_id, ...row }) => ({ ...row, merchantId: merchant_id }));
const MerchantRow = z.object({ merchant_id: z.string() });
const EventsRow = z.object({ merchant_id: z.string(), events: z.string().transform(Number) });
const ComparedRow = z.object({
  meter_id: z.number(),
  merchant_id: z.string(),
  date: DateText,
  compared: z.number(),
  apart: z.number(),
  first: z
    .object({
      period: z.string(),
      group: z.array(z.string()),
      journal: z.string().nullable(),
      stored: z.string().nullable(),
    })
    .nullable(),
});

/** Compares the rollups of meters with their sources. */
export function createMeterChecks(
  dataSource: DataSource,
  partitions: Pick<Partitions, 'open'>,
  recompute: Recompute,
): MeterChecks {
  return {
    async compareDay(scope, repair) {
      const comparison = await inTransaction(dataSource, (transaction) => compareDay(transaction, scope));
      if (repair) await recomputeDay(scope, comparison.drift);
      return comparison;
    },

    async compareFolds(scope, repair) {
      const comparison = await inTransaction(dataSource, (transaction) => compareFolds(transaction, scope));
      if (repair) for (const each of comparison.drift) await markPeriod(each);
      return comparison;
    },

    unchecked: async ({ startDate, endDate }, after, limit) =>
      (await dataSource.getRepository(MeterEntity).countBy({ removedAt: IsNull() })) === 0
        ? []
        : runSql(dataSource, 'meter-unchecked-days', [startDate, endDate, after.date, after.merchantId, limit], DayRow),

    async markChecked(days) {
      const values = [days.map((day) => day.date), days.map((day) => day.merchantId), days.map((day) => day.changes)];
      await runSql(dataSource, 'mark-meters-checked', values, z.unknown());
    },

    async forgetChecked(before) {
      await runSql(dataSource, 'forget-meter-checks', [before], z.unknown());
    },

    async dayEvents(merchantIds, date) {
      const rows = await runSql(dataSource, 'meter-day-events', [merchantIds, date], EventsRow);
      return new Map(rows.map(({ merchant_id, events }) => [merchant_id, events]));
    },

    async merchants() {
      const name = (await isDistributed(dataSource)) ? 'meter-merchants-nodes' : 'meter-merchants';
      return (await runSql(dataSource, name, [], MerchantRow)).map(({ merchant_id }) => merchant_id);
    },
  };

  async function compareDay(transaction: Executor, { merchantIds, date, within }: ScopeOfDay) {
    await lockMeters(transaction);
    const active = await activeMeters(transaction);
    if (active.length === 0 || (await partitions.open(transaction, [date])).length === 0)
      return { drift: [], rows: 0, pending: new Set<string>() };
    const hasQuarters = date >= (await firstDayOfQuarters(transaction));
    const table = hasQuarters ? 'meter_quarters' : 'meter_days';
    const scope: EventsOfDay = { of: 'day', merchantIds, date, within: hasQuarters ? within : undefined };
    const checksValues = await hasOverflows(transaction, merchantIds, date);
    const found: MeterComparison[] = [];
    for (const [kind, meters] of byKind(active)) {
      const source = (bind: Bind) => sourceOfEvents({ kind, table, meters }, { scope, checksValues }, bind);
      found.push(await compare(transaction, { table, meters, merchantIds }, source));
    }
    const waiting = await runSql(transaction, 'meter-pending-merchants', [merchantIds, date], MerchantRow);
    return { ...together(found), pending: new Set(waiting.map(({ merchant_id }) => merchant_id)) };
  }

  async function recomputeDay({ date, within }: ScopeOfDay, drift: readonly MeterDrift[]): Promise<void> {
    for (const merchantId of new Set(drift.map((each) => each.merchantId))) {
      // A key names one meter of a merchant.
      const keys = new Set(drift.filter((each) => each.merchantId === merchantId).map(({ meter }) => meter));
      await changing({ merchantId, date }, 'day', async (transaction) => {
        const meters = (await activeMeters(transaction)).filter(({ key }) => keys.has(key));
        await recompute(transaction, meters, { merchantId, date, within });
      });
    }
  }

  /** The next fold rebuilds the period. */
  function markPeriod({ merchantId, date, rollup }: MeterDrift): Promise<void> {
    // Folding a month makes its trimester dirty, and that its year.
    const grain = rollup === 'meter_days' ? 'day' : 'month';
    return changing({ merchantId, date }, grain, (transaction) =>
      markDirty(transaction, { merchantId, date }, grain === 'day' ? date : addDays(date, 1)),
    );
  }

  /** Invalidates answers about the day. Corrections take these locks in this order, too. */
  function changing(
    { merchantId, date }: MerchantDay,
    grain: 'day' | 'month',
    work: (transaction: Executor) => Promise<void>,
  ): Promise<void> {
    return inTransaction(dataSource, async (transaction) => {
      if (grain === 'day') await runSql(transaction, 'touch-days', [merchantId, [date]], z.unknown());
      else await runSql(transaction, 'touch-month', [merchantId, date], z.unknown());
      await lockMeters(transaction);
      await work(transaction);
    });
  }
}

/** Compares days with their quarter hours, and coarser clean periods with the next finer rollup. */
async function compareFolds(transaction: Executor, { merchantIds, startDate, endDate }: ScopeOfPeriods) {
  await lockMeters(transaction);
  const active = await activeMeters(transaction);
  const quartersFrom = await firstDayOfQuarters(transaction);
  const found: MeterComparison[] = [];
  for (const [kind, meters] of byKind(active))
    for (const folded of FOLDED) {
      const { grain, periodOf, table } = folded;
      const start = periodOf(startDate).startDate;
      const first = grain === 'day' && start < quartersFrom ? quartersFrom : start;
      const last = periodOf(endDate).startDate;
      if (first > last) continue;
      const source = (bind: Bind) => sourceOfPeriods({ kind, folded, meters }, { merchantIds, first, last }, bind);
      found.push(await compare(transaction, { table, meters, merchantIds }, source));
    }
  return together(found);
}

const together = (comparisons: readonly MeterComparison[]): MeterComparison => ({
  drift: comparisons.flatMap(({ drift }) => drift),
  rows: comparisons.reduce((sum, { rows }) => sum + rows, 0),
});

/**
 * What a rollup must equal: common table expressions that end with `made`, and the rows of the rollup to compare with it.
 */
type Source = { made: string; stored: string };

/** Compares the rows of meters in a rollup with their source. */
async function compare(
  transaction: Executor,
  { table, meters, merchantIds }: { table: RollupTable; meters: readonly MeterRow[]; merchantIds: readonly string[] },
  sourceOf: (bind: Bind) => Source,
): Promise<MeterComparison> {
  const { bind, values } = bindings();
  const { made, stored } = sourceOf(bind);
  const ofMeters = `meter_id = any(${bind(meters.map(({ id }) => id))}::int[])`;
  const where = `${ofMeters} and merchant_id = any(${bind(merchantIds)}::text[])
    and ${stored}`;
  const rows = ((await transaction.query(`with ${made},\n${compared(table, where)}`, values)) as unknown[]).map((row) =>
    ComparedRow.parse(row),
  );
  const drift = rows.flatMap(({ meter_id, merchant_id, date, apart, first }): MeterDrift[] => {
    if (apart === 0 || first === null) return [];
    const { key, scale, dimensions } = meters.find(({ id }) => id === meter_id)!;
    const group = first.group.slice(0, dimensions.length);
    return [
      { meter: key, scale, merchantId: merchant_id, date, rollup: table, rows: apart, first: { ...first, group } },
    ];
  });
  return { drift, rows: rows.reduce((sum, row) => sum + row.compared, 0) };
}

type EventsOfDay = EventScope & { of: 'day' };

/** Makes the rows of quarter hours or days from the events of a day. */
function sourceOfEvents(
  { kind, table, meters }: { kind: Kind; table: 'meter_quarters' | 'meter_days'; meters: readonly MeterRow[] },
  { scope, checksValues }: { scope: EventsOfDay; checksValues: boolean },
  bind: Bind,
): Source {
  const rows = rowsOf(meters, { scope, checksValues }, bind);
  const day = `${bind(scope.date)}::date`;
  const midnight = (date: string) => `${date}::timestamp at time zone 'UTC'`;
  const [from, until] = scope.within
    ? [`${bind(scope.within.from)}::timestamptz`, `${bind(scope.within.until)}::timestamptz`]
    : [midnight(day), midnight(`(${day} + 1)`)];
  return {
    made: `${rows},
made as (${foldedRows(kind, 'rows as fine', `fine.${PERIOD[table]}`)})`,
    stored: table === 'meter_days' ? `date = ${day}` : `bucket >= ${from} and bucket < ${until}`,
  };
}

/** Makes the rows of clean periods of a range from the next finer rollup. */
function sourceOfPeriods(
  { kind, folded, meters }: { kind: Kind; folded: Folded; meters: readonly MeterRow[] },
  { merchantIds, ...range }: { merchantIds: readonly string[]; first: Day; last: Day },
  bind: Bind,
): Source {
  const { grain, column, finer, unit } = folded;
  const merchants = `${bind(merchantIds)}::text[]`;
  const ids = `${bind(meters.map(({ id }) => id))}::int[]`;
  const [first, last] = [`${bind(range.first)}::date`, `${bind(range.last)}::date`];
  // Read first: on Citus, marks are on the coordinator.
  const dirty = `select merchant_id, period from meter_marks where grain = '${grain}' and merchant_id = any(${merchants})
  union
  select merchant_id, ${START_AROUND} from meter_marks join ${AROUND} using (grain)
  where coarser = '${grain}' and merchant_id = any(${merchants})`;
  const isClean = (period: string) =>
    `not exists (select from dirty where dirty.merchant_id = rollup.merchant_id and dirty.period = ${period})`;
  const period =
    finer === 'meter_quarters'
      ? "(rollup.bucket at time zone 'UTC')::date"
      : `date_trunc('${unit}', rollup.${PERIOD[finer]})::date`;
  const fine = `(select *, ${period} as period from ${finer} as rollup
    where ${finerRows(folded, 'rollup', [first, last])} and meter_id = any(${ids}) and merchant_id = any(${merchants})
      and ${isClean(period)})`;
  return {
    made: `dirty as materialized (
  ${dirty}
),
made as (${foldedRows(kind, `${fine} as fine`, 'fine.period')})`,
    stored: `${column} between ${first} and ${last} and ${isClean(`rollup.${column}`)}`,
  };
}

/**
 * Ends a comparison of `made` with a rollup: rows by meter, merchant and day, with the number of differences and one
 * example.
 */
function compared(table: RollupTable, where: string): string {
  const day = table === 'meter_quarters' ? "(period at time zone 'UTC')::date" : 'period';
  const isApart = '(made.value, made.at, made.event_id) is distinct from (stored.value, stored.at, stored.event_id)';
  return `stored as (
  select meter_id, merchant_id, ${PERIOD[table]} as period, ${KEYS}, value, at, event_id
  from ${table} as rollup
  where ${where}
)
select meter_id, merchant_id, ${day} as date, count(*)::int as compared, (count(*) filter (where ${isApart}))::int as apart,
  (array_agg(json_build_object('period', period::text, 'group', array[d1, d2, d3, d4], 'journal', made.value::text,
    'stored', stored.value::text) order by period, d1, d2, d3, d4, element) filter (where ${isApart}))[1] as first
from (
  select meter_id, merchant_id collate "C" as merchant_id, period, d1 collate "C" as d1, d2 collate "C" as d2,
    d3 collate "C" as d3, d4 collate "C" as d4, element collate "C" as element, value, at, event_id collate "C" as event_id
  from made
) as made
full join stored using (meter_id, merchant_id, period, d1, d2, d3, d4, element)
group by 1, 2, 3`;
}
