import { addDays, type Day, eachDay, QUARTER_HOUR_MS } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { isDistributed } from '../distribution.ts';
import { MeterEntity, type MeterRow } from '../entities/meter.ts';
import type { Partitions } from '../journal/partitions.ts';
import { afterCommits, betweenMoments } from '../one-moment.ts';
import { DateText, type MerchantDay } from '../rows.ts';
import { bindings, type Executor, runSql, sql } from '../run-sql.ts';
import { inTransaction } from '../transactions.ts';
import { In } from '../typeorm.ts';
import { rowsOf } from './event-rows.ts';
import type { EventScope, QuarterHours } from './event-scope.ts';
import { admitValues } from './limited-values.ts';
import { createMeterChecks, type MeterChecks } from './meter-checks-store.ts';
import { foldDirty, hasDirty, markDirty } from './meter-folds.ts';
import { activeMeters, firstDayOfQuarters, lockMeters, nextRun, tryLockMeters } from './meter-state.ts';
import { addRows, byKind, kindOf, MARKED, ROLLUP_TABLES, renameRows } from './rollup-sql.ts';

export type MeterRollups = {
  /**
   * Adds flushes not yet derived to the rollups of all meters, in one transaction: up to `maxEvents` events, but at
   * least one flush. Does nothing while another process derives, or changes meters.
   */
  derive(maxEvents: number): Promise<{ flushes: number; events: number }>;
  /** Returns how many flushes and events are not derived yet, and the age of the oldest. */
  lag(): Promise<{ flushes: number; events: number; oldestMs: number }>;
  /** Computes a part of a meter's history, newest days first; false once nothing is left. */
  computeHistory(maxEvents: number): Promise<boolean>;
  /**
   * Rebuilds dirty days before `today`, months, trimesters and years from the next finer rollup, after `quietMs` without
   * writes, trimesters and years after sixty times as long; at most `limit` of each. Returns their number.
   */
  fold(today: Day, quietMs: number, limit: number): Promise<number>;
  /**
   * Drops quarter hours of days before `firstKept`, once the days are rebuilt from them. Returns the number of rows.
   */
  prune(firstKept: Day): Promise<number>;
  /** Counts adjustments that were just recorded, in their transaction; one that voids an event takes that event out. */
  adjusted(transaction: Executor, adjustments: Adjustments): Promise<void>;
  /**
   * Rebuilds all meters of a merchant's days in the given transaction: open days from the journal, others from their
   * quarter hours.
   */
  rebuildDays(
    transaction: Executor,
    merchantId: string,
    days: { open: readonly Day[]; closed: readonly Day[] },
  ): Promise<void>;
  /** Renames a merchant's user in all meters, one meter per transaction; values stay. Returns the number of rows. */
  renameUser(merchantId: string, userId: string, name: string): Promise<number>;
  /** Rebuilds one meter; `merchantIds`: only for these merchants. */
  rebuild(
    meter: Pick<MeterRow, 'id' | 'merchantId'>,
    scope: { startDate: Day; endDate: Day; merchantIds?: readonly string[] | undefined },
  ): Promise<{ merchantDays: number; closedDays: number }>;
} & MeterChecks;

/** Adjustments of a merchant by day. `voids`: the only one takes this event back. */
type Adjustments = { merchantId: string; idsByDay: ReadonlyMap<Day, readonly string[]>; voids?: string };

const MAX_FLUSHES = 500;
const MERCHANTS_LOOKED_AT = 1_000;
const ROWS_REMOVED_AT_ONCE = 20_000;

const FlushRow = z.object({
  id: z.string(),
  inserted: z.string().transform(Number),
  first_date: DateText.nullable(),
  last_date: DateText.nullable(),
});
const LagRow = z
  .object({ flushes: z.number(), events: z.string().transform(Number), oldest_ms: z.number() })
  .transform(({ oldest_ms: oldestMs, ...lag }) => ({ ...lag, oldestMs }));
const HistoryRow = z.object({ meter_id: z.number(), date: DateText, after_merchant: z.string() });
const CountRow = z.object({ merchant_id: z.string(), events: z.string().transform(Number) });
const TimeRow = z.object({ time: z.date() });
const ClosedRow = z.object({ date: DateText, closed_at: z.date() });
const MerchantRow = z.object({ merchant_id: z.string() });
const MeterIdRow = z.object({ id: z.number() });

/** Rollups of meters: quarter hours, days, months, trimesters and years. */
export function createMeterRollups(
  dataSource: DataSource,
  partitions: Pick<Partitions, 'open'>,
  valuesPerDay: number,
): MeterRollups {
  return {
    ...createMeterChecks(dataSource, partitions, recompute),

    derive: (maxEvents) =>
      inTransaction(dataSource, async (transaction) => {
        const none = { flushes: 0, events: 0 };
        if (!(await tryLockMeters(transaction))) return none;
        const flushes = await runSql(transaction, 'take-flushes-for-meters', [maxEvents, MAX_FLUSHES], FlushRow);
        if (flushes.length === 0) return none;
        await afterCommits(dataSource, transaction);
        const ids = flushes.map(({ id }) => id);
        const dates = flushes.flatMap(({ first_date, last_date }) => [first_date ?? [], last_date ?? []].flat()).sort();
        const meters = await activeMeters(transaction);
        const { run, quartersFrom } = await nextRun(transaction);
        const [first, last] = [dates[0], dates.at(-1)];
        if (meters.length > 0 && first && last)
          await add(transaction, meters, { scope: { of: 'flushes', ids, first, last }, first, last, quartersFrom });
        await transaction.query(sql('meters/set-flushes-metered'), [run, ids]);
        await betweenMoments(dataSource, transaction);
        return { flushes: flushes.length, events: flushes.reduce((sum, { inserted }) => sum + inserted, 0) };
      }),

    lag: async () => (await runSql(dataSource, 'meters/lag', [], LagRow))[0]!,

    async computeHistory(maxEvents) {
      // Most of the time there is none, and the lock would make others wait.
      if (!(await nextHistory(dataSource))) return false;
      return inTransaction(dataSource, async (transaction) => {
        await lockMeters(transaction);
        // Read again: while this waited, another process may have computed the part.
        const part = await nextHistory(transaction);
        if (!part) return false;
        const meter = (await activeMeters(transaction)).find(({ id }) => id === part.meter_id);
        if (!meter) return true;
        const { date, after_merchant: after } = part;
        const upTo = await endOfPart(transaction, { date, after, merchantId: meter.merchantId }, maxEvents);
        const scope: EventScope = { of: 'history', date, after, upTo, before: meter.createdRun };
        const quartersFrom = await firstDayOfQuarters(transaction);
        await add(transaction, [meter], { scope, first: date, last: date, quartersFrom });
        await transaction.query(sql('meters/advance-history'), [meter.id, date, upTo]);
        // Whoever finds a day computed also finds its sums.
        if (upTo === null) await betweenMoments(dataSource, transaction);
        return true;
      });
    },

    async fold(today, quietMs, limit) {
      // Most of the time there is none, and the lock would make others wait.
      if (!(await hasDirty(dataSource, { today, quietMs }))) return 0;
      return inTransaction(dataSource, async (transaction) => {
        if (!(await tryLockMeters(transaction))) return 0;
        const periods = await foldDirty(transaction, { today, quietMs, limit });
        if (periods > 0) await betweenMoments(dataSource, transaction);
        return periods;
      });
    },

    async prune(firstKept) {
      await inTransaction(dataSource, async (transaction) => {
        await lockMeters(transaction);
        await transaction.query(sql('meters/raise-quarters-from'), [firstKept]);
      });
      let removed = 0;
      // A node of Citus has no row of another one by its place; there each removes its own in one statement.
      const atOnce = await isDistributed(dataSource);
      const removeFrom = async (table: string, where: string) => {
        const some = `ctid = any(array(select ctid from ${table} where ${where} limit ${ROWS_REMOVED_AT_ONCE}))`;
        const text = `delete from ${table} where ${atOnce ? where : some}`;
        for (;;) {
          const [, count] = (await dataSource.query(text)) as [unknown, number];
          removed += count;
          if (atOnce || count < ROWS_REMOVED_AT_ONCE) return;
        }
      };
      await removeFrom('meter_quarters', `bucket < '${await firstDayOfQuarters(dataSource)}T00:00:00Z'`);
      await removeFrom('meter_values', 'date in (select date from usage_closed_days)');
      for (const { id } of await runSql(dataSource, 'meters/removed-meters', [], MeterIdRow)) {
        for (const table of ROLLUP_TABLES) await removeFrom(table, `meter_id = ${id}`);
        await dataSource.query(sql('meters/set-purged'), [id]);
      }
      return removed;
    },

    async adjusted(transaction, adjustments) {
      const { merchantId, idsByDay, voids } = adjustments;
      await lockMeters(transaction);
      const { run, quartersFrom } = await nextRun(transaction);
      const meters = metersFor(merchantId, await activeMeters(transaction));
      // Without a run, they are part of the history of every later meter.
      if (meters.length === 0 && voids === undefined) return;
      const ids = [...idsByDay.values()].flat();
      await transaction.query(sql('meters/set-adjustments-metered'), [run, voids ?? null, merchantId, ids]);
      if (meters.length === 0) return;
      if (voids === undefined) return addAdjustments(transaction, meters, { ...adjustments, quartersFrom });
      const date = [...idsByDay.keys()][0]!;
      const [event] = await runSql(transaction, 'meters/event-time', [date, merchantId, voids], TimeRow);
      if (event) await recompute(transaction, meters, { merchantId, date, within: quarterHourOf(event.time) });
    },

    async rebuildDays(transaction, merchantId, { open, closed }) {
      await lockMeters(transaction);
      const meters = await activeMeters(transaction);
      for (const date of open) await recompute(transaction, meters, { merchantId, date });
      if (closed.length === 0) return;
      const quartersFrom = await firstDayOfQuarters(transaction);
      for (const date of closed) await markDirty(transaction, { merchantId, date }, quartersFrom);
    },

    async renameUser(merchantId, userId, name) {
      let renamed = 0;
      const meters = dataSource.getRepository(MeterEntity);
      for (const meter of await meters.findBy({ merchantId: In(['', merchantId]), purged: false })) {
        const place = meter.dimensions.indexOf('user');
        const isElement = meter.aggregation === 'UNIQUE' && meter.valueProperty === 'user';
        if (place < 0 && !isElement) continue;
        renamed += await inTransaction(dataSource, async (transaction) => {
          await lockMeters(transaction);
          let rows = 0;
          for (const table of ROLLUP_TABLES) {
            const text = renameRows(kindOf(meter), table, { place, isElement });
            rows += ((await transaction.query(text, [meter.id, merchantId, userId, name])) as unknown[]).length;
          }
          return rows;
        });
      }
      return renamed;
    },

    async rebuild({ id, merchantId: own }, { startDate, endDate, merchantIds }) {
      let [merchantDays, closedDays] = [0, 0];
      const only = own !== '' ? [own] : (merchantIds ?? null);
      for (const date of eachDay(startDate, endDate)) {
        const values = [date, only, id, `${date}T00:00:00Z`];
        const merchants = await runSql(dataSource, 'meters/merchants-of-day', values, MerchantRow);
        for (const { merchant_id: merchantId } of merchants) {
          if (await rebuildDay(id, { merchantId, date })) merchantDays++;
          else closedDays++;
        }
      }
      return { merchantDays, closedDays };
    },
  };

  /**
   * Adds the events of a scope, which lie between two days, to these meters. Days before `quartersFrom` have no quarter
   * hours.
   */
  async function add(
    transaction: Executor,
    meters: readonly MeterRow[],
    { scope, first, last, quartersFrom }: { scope: EventScope; first: Day; last: Day; quartersFrom: Day },
  ): Promise<void> {
    const checksValues = await admitValues(transaction, { meters, scope, valuesPerDay });
    for (const [kind, own] of byKind(meters)) {
      for (const table of ['meter_quarters', 'meter_days'] as const) {
        if (table === 'meter_days' ? first >= quartersFrom : last < quartersFrom) continue;
        const { bind, values } = bindings();
        const text = `with ${rowsOf(own, { scope, checksValues }, bind)},
          horizon as (select ${bind(quartersFrom)}::date as quarters_from),
          ${MARKED}
          ${addRows(kind, table, `date ${table === 'meter_days' ? '<' : '>='} (select quarters_from from horizon)`)}`;
        await transaction.query(text, values);
      }
    }
  }

  /** Adds adjustments to meters that sum or count. A meter does not know days that were closed before it was created. */
  async function addAdjustments(
    transaction: Executor,
    meters: readonly MeterRow[],
    { merchantId, idsByDay, quartersFrom }: Adjustments & { quartersFrom: Day },
  ): Promise<void> {
    const closed = await runSql(transaction, 'meters/closed-at', [[...idsByDay.keys()]], ClosedRow);
    const closedAt = new Map(closed.map((row) => [row.date, row.closed_at]));
    const summing = meters.filter(({ aggregation }) => aggregation === 'SUM' || aggregation === 'COUNT');
    for (const [date, ids] of idsByDay) {
      const knowing = summing.filter(({ createdAt }) => (closedAt.get(date) ?? Number.POSITIVE_INFINITY) > createdAt);
      if (knowing.length === 0) continue;
      const scope: EventScope = { of: 'adjustments', merchantId, ids };
      await add(transaction, knowing, { scope, first: date, last: date, quartersFrom });
    }
  }

  /** Rebuilds a merchant's day, or some quarter hours of it, from the journal. */
  async function recompute(
    transaction: Executor,
    meters: readonly MeterRow[],
    { merchantId, date, within }: MerchantDay & { within?: QuarterHours | undefined },
  ): Promise<void> {
    const own = metersFor(merchantId, meters);
    if (own.length === 0) return;
    const quartersFrom = await firstDayOfQuarters(transaction);
    const ids = own.map(({ id }) => id);
    const hasQuarters = date >= quartersFrom;
    const { from, until } = within ?? { from: `${date}T00:00:00Z`, until: `${addDays(date, 1)}T00:00:00Z` };
    if (hasQuarters) await transaction.query(sql('meters/delete-quarters'), [ids, merchantId, from, until]);
    else await transaction.query(sql('meters/delete-day'), [ids, merchantId, date]);
    const scope: EventScope = { of: 'day', merchantIds: [merchantId], date, within: hasQuarters ? within : undefined };
    await add(transaction, own, { scope, first: date, last: date, quartersFrom });
    await markDirty(transaction, { merchantId, date }, quartersFrom);
  }

  /** Rebuilds a meter's day of a merchant. Returns false if the events of the day were dropped. */
  function rebuildDay(meterId: number, { merchantId, date }: MerchantDay): Promise<boolean> {
    return inTransaction(dataSource, async (transaction) => {
      // Invalidates cached answers about the rebuilt days. Corrections take these locks in this order, too.
      await runSql(transaction, 'touch-days', [merchantId, [date]], z.unknown());
      await lockMeters(transaction);
      if ((await partitions.open(transaction, [date])).length === 0) return false;
      const meters = (await activeMeters(transaction)).filter(({ id }) => id === meterId);
      await recompute(transaction, meters, { merchantId, date });
      return true;
    });
  }
}

/** Returns the meters that count events of the merchant. */
const metersFor = (merchantId: string, meters: readonly MeterRow[]) =>
  meters.filter((meter) => meter.merchantId === '' || meter.merchantId === merchantId);

/** Returns the next part of a meter's history to compute; undefined if nothing is left. */
const nextHistory = async (executor: Executor) => (await runSql(executor, 'meters/next-history', [], HistoryRow))[0];

/** Returns the last merchant of a part with about `maxEvents` events of a day; null if the part has the rest of the day. */
async function endOfPart(
  transaction: Executor,
  { date, after, merchantId }: { date: Day; after: string; merchantId: string },
  maxEvents: number,
): Promise<string | null> {
  const values = [date, after, merchantId, MERCHANTS_LOOKED_AT];
  const counts = await runSql(transaction, 'meters/history-merchants', values, CountRow);
  let sum = 0;
  const filling = counts.findIndex(({ events }) => {
    sum += events;
    return sum >= maxEvents;
  });
  const end = filling < 0 ? counts.length - 1 : filling;
  const isRest = end === counts.length - 1 && counts.length < MERCHANTS_LOOKED_AT;
  return isRest ? null : counts[end]!.merchant_id;
}

function quarterHourOf(time: Date): QuarterHours {
  const from = Math.floor(Number(time) / QUARTER_HOUR_MS) * QUARTER_HOUR_MS;
  return { from: new Date(from).toISOString(), until: new Date(from + QUARTER_HOUR_MS).toISOString() };
}
