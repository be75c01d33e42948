import { addDays, type Day } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { isDistributed } from '../distribution.ts';
import { MeterEntity, type MeterRow } from '../entities/meter.ts';
import type { Partitions } from '../journal/partitions.ts';
import type { DayVersion } from '../rollups/checks-store.ts';
import { DateText, type MerchantDay } from '../rows.ts';
import { type Executor, runSql } from '../run-sql.ts';
import { inTransaction } from '../transactions.ts';
import { IsNull } from '../typeorm.ts';
import {
  type Bind,
  bindings,
  type EventScope,
  type MeterSpec,
  type QuarterHours,
  type RowsOptions,
  rowsOf,
} from './event-rows.ts';
import { hasOverflows } from './limited-values.ts';
import { lockMeters } from './meter-lock.ts';
import {
  AROUND,
  byKind,
  FOLDED,
  type Folded,
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
  compareDay(
    scope: { merchantIds: readonly string[]; date: Day; within?: QuarterHours | undefined },
    repair: boolean,
  ): Promise<MeterComparison & { pending: ReadonlySet<string> }>;
  /**
   * Compares days with their quarter hours, and coarser periods of the range with the next finer rollup. `repair`
   * marks differing periods: readers use the finer rows at once, and the next fold rebuilds the periods.
   */
  compareFolds(
    scope: { merchantIds: readonly string[]; startDate: Day; endDate: Day },
    repair: boolean,
  ): Promise<MeterComparison>;
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

type Found = { row: MeterDrift; meter: MeterRow };

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
  rollups: {
    /** Rebuilds a merchant's day, or some quarter hours of it, from the journal. */
    recompute(
      transaction: Executor,
      meters: readonly MeterRow[],
      day: MerchantDay & { within?: QuarterHours | undefined },
    ): Promise<void>;
    /** Marks a month as dirty, and the day unless it is before the horizon. */
    mark(transaction: Executor, merchantId: string, date: Day, horizon: Day): Promise<void>;
    metersOf(transaction: Executor): Promise<MeterRow[]>;
    horizonOf(executor: Executor): Promise<Day>;
  },
): MeterChecks {
  async function run(
    transaction: Executor,
    meters: readonly MeterRow[],
    rollup: RollupTable,
    { text, values }: { text: string; values: unknown[] },
  ): Promise<{ found: Found[]; rows: number }> {
    const found = ((await transaction.query(text, values)) as unknown[]).map((row) => ComparedRow.parse(row));
    const drift = found.flatMap(({ meter_id, merchant_id, date, apart, first }): Found[] => {
      if (apart === 0 || first === null) return [];
      const meter = meters.find(({ id }) => id === meter_id)!;
      const { key, scale } = meter;
      const group = first.group.slice(0, meter.dimensions.length);
      const row = { meter: key, scale, merchantId: merchant_id, date, rollup, rows: apart, first: { ...first, group } };
      return [{ row, meter }];
    });
    return { found: drift, rows: found.reduce((sum, { compared }) => sum + compared, 0) };
  }

  /** Invalidates answers about the day. Corrections take these locks in this order, too. */
  const changing = (
    { merchantId, date }: MerchantDay,
    grain: 'day' | 'month',
    work: (transaction: Executor) => Promise<void>,
  ) =>
    inTransaction(dataSource, async (transaction) => {
      if (grain === 'day') await runSql(transaction, 'touch-days', [merchantId, [date]], z.unknown());
      else await runSql(transaction, 'touch-month', [merchantId, date], z.unknown());
      await lockMeters(transaction);
      await work(transaction);
    });

  return {
    async compareDay({ merchantIds, date, within }, repair) {
      const wrong: Found[] = [];
      const compared = await inTransaction(dataSource, async (transaction) => {
        wrong.length = 0;
        const pending = new Set<string>();
        await lockMeters(transaction);
        const meters = await rollups.metersOf(transaction);
        if (meters.length === 0 || (await partitions.open(transaction, [date])).length === 0)
          return { rows: 0, pending };
        const isOld = date < (await rollups.horizonOf(transaction));
        const table = isOld ? 'meter_days' : 'meter_quarters';
        const scope = { of: 'day' as const, merchantIds, date, within: isOld ? undefined : within };
        const checksValues = await hasOverflows(transaction, merchantIds, date);
        let rows = 0;
        for (const [kind, own] of byKind(meters)) {
          const { bind, values } = bindings();
          const text = compareRows(kind, table, own, { scope, checksValues }, bind);
          const each = await run(transaction, meters, table, { text, values });
          wrong.push(...each.found);
          rows += each.rows;
        }
        const waiting = await runSql(transaction, 'meter-pending-merchants', [merchantIds, date], MerchantRow);
        for (const { merchant_id } of waiting) pending.add(merchant_id);
        return { rows, pending };
      });
      if (repair)
        for (const merchantId of new Set(wrong.map(({ row }) => row.merchantId))) {
          const ids = new Set(wrong.filter(({ row }) => row.merchantId === merchantId).map(({ meter }) => meter.id));
          await changing({ merchantId, date }, 'day', async (transaction) => {
            const own = (await rollups.metersOf(transaction)).filter(({ id }) => ids.has(id));
            await rollups.recompute(transaction, own, { merchantId, date, within });
          });
        }
      return { ...compared, drift: wrong.map(({ row }) => row) };
    },

    async compareFolds({ merchantIds, startDate, endDate }, repair) {
      const drift: MeterDrift[] = [];
      const rows = await inTransaction(dataSource, async (transaction) => {
        drift.length = 0;
        await lockMeters(transaction);
        const meters = await rollups.metersOf(transaction);
        const horizon = await rollups.horizonOf(transaction);
        let compared = 0;
        for (const [kind, own] of byKind(meters))
          for (const folded of FOLDED) {
            const { grain, periodOf } = folded;
            const start = periodOf(startDate).startDate;
            const [first, last] = [grain === 'day' && start < horizon ? horizon : start, periodOf(endDate).startDate];
            if (first > last) continue;
            const { bind, values } = bindings();
            const text = compareFolds(kind, folded, own, { merchantIds, first, last }, bind);
            const each = await run(transaction, meters, folded.table, { text, values });
            drift.push(...each.found.map(({ row }) => row));
            compared += each.rows;
          }
        return compared;
      });
      if (repair)
        for (const { merchantId, date, rollup } of drift) {
          // Folding a month makes its trimester dirty, and that its year.
          const grain = rollup === 'meter_days' ? 'day' : 'month';
          await changing({ merchantId, date }, grain, (transaction) =>
            rollups.mark(transaction, merchantId, date, grain === 'day' ? date : addDays(date, 1)),
          );
        }
      return { drift, rows };
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
}

/** Compares events with a rollup: a row per meter and merchant, as `compared` writes it. */
function compareRows(
  kind: Kind,
  table: 'meter_quarters' | 'meter_days',
  meters: readonly MeterSpec[],
  options: RowsOptions & { scope: EventScope & { of: 'day' } },
  bind: Bind,
): string {
  const { merchantIds, date, within } = options.scope;
  const rows = rowsOf(meters, options, bind);
  const day = `${bind(date)}::date`;
  const midnight = (of: string) => `${of}::timestamp at time zone 'UTC'`;
  const stored =
    table === 'meter_days'
      ? `date = ${day}`
      : `bucket >= ${within ? `${bind(within.from)}::timestamptz` : midnight(day)}
    and bucket < ${within ? `${bind(within.until)}::timestamptz` : midnight(`(${day} + 1)`)}`;
  return `with ${rows},
made as (${foldedRows(kind, 'rows as fine', `fine.${PERIOD[table]}`)}),
${compared(table, meters, merchantIds, stored, bind)}`;
}

/** Compares finer rows with a coarser rollup, for clean periods of a range. */
function compareFolds(
  kind: Kind,
  { grain, table, column, finer, length, unit }: Folded,
  meters: readonly MeterSpec[],
  { merchantIds, first, last }: { merchantIds: readonly string[]; first: string; last: string },
  bind: Bind,
): string {
  const merchants = `${bind(merchantIds)}::text[]`;
  const [ids, from, to] = [bind(meters.map(({ id }) => id)), `${bind(first)}::date`, `${bind(last)}::date`];
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
  const isWithin =
    finer === 'meter_quarters'
      ? `bucket >= ${from}::timestamp at time zone 'UTC' and bucket < (${to} + 1)::timestamp at time zone 'UTC'`
      : `${PERIOD[finer]} >= ${from} and ${PERIOD[finer]} < (${to} + interval '${length}')::date`;
  const fine = `(select *, ${period} as period from ${finer} as rollup
    where ${isWithin} and meter_id = any(${ids}::int[]) and merchant_id = any(${merchants}) and ${isClean(period)})`;
  return `with dirty as materialized (
  ${dirty}
),
made as (${foldedRows(kind, `${fine} as fine`, 'fine.period')}),
${compared(table, meters, merchantIds, `${column} between ${from} and ${to} and ${isClean(`rollup.${column}`)}`, bind)}`;
}

/**
 * Ends a comparison of `made` with a rollup: rows by meter, merchant and day, with the number of differences and one
 * example.
 */
function compared(
  table: RollupTable,
  meters: readonly MeterSpec[],
  merchantIds: readonly string[],
  where: string,
  bind: Bind,
): string {
  const day = table === 'meter_quarters' ? "(period at time zone 'UTC')::date" : 'period';
  const isApart = '(made.value, made.at, made.event_id) is distinct from (stored.value, stored.at, stored.event_id)';
  return `stored as (
  select meter_id, merchant_id, ${PERIOD[table]} as period, ${KEYS}, value, at, event_id
  from ${table} as rollup
  where meter_id = any(${bind(meters.map(({ id }) => id))}::int[]) and merchant_id = any(${bind(merchantIds)}::text[])
    and ${where}
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
