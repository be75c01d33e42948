import { addDays, type Day, eachDay, monthOf, QUARTER_HOUR_MS } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { isDistributed } from '../distribution.ts';
import { MeterEntity, type MeterRow } from '../entities/meter.ts';
import type { Partitions } from '../journal/partitions.ts';
import { afterCommits, betweenMoments } from '../one-moment.ts';
import { DateText, type MerchantDay } from '../rows.ts';
import { type Executor, runSql } from '../run-sql.ts';
import { inTransaction } from '../transactions.ts';
import { In, IsNull } from '../typeorm.ts';
import { bindings, type EventScope, type QuarterHours, rowsOf } from './event-rows.ts';
import { admitValues } from './limited-values.ts';
import { createMeterChecks, type MeterChecks } from './meter-checks-store.ts';
import { lockMeters, tryLockMeters } from './meter-lock.ts';
import {
  addRows,
  byKind,
  FOLDED,
  foldRows,
  type Grain,
  KINDS,
  kindOf,
  MARKED,
  PERIOD,
  ROLLUP_TABLES,
  renameRows,
} from './rollup-sql.ts';

export type MeterRollups = {
  /**
   * Adds flushes not yet derived to the rollups of all meters, in one transaction: up to `maxEvents` events, but at
   * least one flush. Does nothing while another process derives, or changes meters.
   */
  derive(maxEvents: number): Promise<{ flushes: number; events: number }>;
  /** Returns the number of events not derived yet, and the age of the oldest. */
  lag(): Promise<{ events: number; oldestMs: number }>;
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
  adjusted(
    transaction: Executor,
    adjustments: { merchantId: string; idsByDay: ReadonlyMap<Day, readonly string[]>; voids?: string },
  ): Promise<void>;
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

const MAX_FLUSHES = 500;
const MERCHANTS_LOOKED_AT = 1_000;
const ROWS_REMOVED_AT_ONCE = 20_000;

const StateRow = z.object({ run: z.string(), quarters_from: DateText });
const FlushRow = z.object({
  id: z.string(),
  inserted: z.string().transform(Number),
  first_date: DateText.nullable(),
  last_date: DateText.nullable(),
});
const LagRow = z.object({ events: z.string().transform(Number), oldest_ms: z.number() });
const HistoryRow = z.object({ meter_id: z.number(), date: DateText, after_merchant: z.string() });
const CountRow = z.object({ merchant_id: z.string(), events: z.string().transform(Number) });
const PeriodRow = z.object({ merchant_id: z.string(), period: DateText });
const TimeRow = z.object({ time: z.date() });
const ClosedRow = z.object({ date: DateText, closed_at: z.date() });
const MerchantRow = z.object({ merchant_id: z.string() });

/** Rollups of meters: quarter hours, days, months, trimesters and years. */
export function createMeterRollups(
  dataSource: DataSource,
  partitions: Pick<Partitions, 'open'>,
  valuesPerDay: number,
): MeterRollups {
  const rows = async <Row extends z.ZodType>(executor: Executor, text: string, values: unknown[], row: Row) =>
    ((await executor.query(text, values)) as unknown[]).map((each) => row.parse(each) as z.output<Row>);

  /** The active meters; within a transaction that holds the registry's lock they do not change. */
  async function metersOf(transaction: Executor): Promise<MeterRow[]> {
    const repository = dataSource.getRepository(MeterEntity);
    const { manager } = transaction as { manager?: { findBy: typeof repository.manager.findBy } };
    return (manager ?? dataSource.manager).findBy(MeterEntity, { removedAt: IsNull() });
  }

  /** Starts the next derivation run. */
  async function nextRun(transaction: Executor) {
    const answer = (await transaction.query(
      'update meter_state set run = run + 1 returning run, quarters_from',
    )) as unknown[];
    return StateRow.parse(Array.isArray(answer[0]) ? answer[0][0] : answer[0]);
  }

  const horizonOf = async (executor: Executor): Promise<Day> =>
    (await rows(executor, 'select run, quarters_from from meter_state', [], StateRow))[0]!.quarters_from;

  /** Adds events to these meters; days before the horizon have no quarter hours. */
  async function add(
    transaction: Executor,
    meters: readonly MeterRow[],
    scope: EventScope,
    { first, last, horizon }: { first: Day; last: Day; horizon: Day },
  ): Promise<void> {
    const checksValues = await admitValues(transaction, { meters, scope, valuesPerDay });
    for (const [kind, own] of byKind(meters)) {
      for (const table of ['meter_quarters', 'meter_days'] as const) {
        if (table === 'meter_days' ? first >= horizon : last < horizon) continue;
        const { bind, values } = bindings();
        const text = `with ${rowsOf(own, { scope, checksValues }, bind)},
          horizon as (select ${bind(horizon)}::date as quarters_from),
          ${MARKED}
          ${addRows(kind, table, `date ${table === 'meter_days' ? '<' : '>='} (select quarters_from from horizon)`)}`;
        await transaction.query(text, values);
      }
    }
  }

  async function mark(transaction: Executor, merchantId: string, date: Day, horizon: Day): Promise<void> {
    const periods: [string, Day][] = [['month', monthOf(date).startDate]];
    if (date >= horizon) periods.unshift(['day', date]);
    await transaction.query(
      `insert into meter_marks (merchant_id, grain, period)
       select $1, grain, period from unnest($2::text[], $3::date[]) as period (grain, period)
       on conflict (merchant_id, grain, period) do update set marked_at = excluded.marked_at`,
      [merchantId, periods.map(([grain]) => grain), periods.map(([, period]) => period)],
    );
  }

  /** Rebuilds a merchant's day, or some quarter hours of it, from the journal. */
  async function recompute(
    transaction: Executor,
    meters: readonly MeterRow[],
    { merchantId, date, within }: MerchantDay & { within?: QuarterHours | undefined },
  ): Promise<void> {
    const horizon = await horizonOf(transaction);
    const own = meters.filter((meter) => meter.merchantId === '' || meter.merchantId === merchantId);
    if (own.length === 0) return;
    const ids = own.map(({ id }) => id);
    const isOld = date < horizon;
    if (isOld)
      await transaction.query('delete from meter_days where meter_id = any($1) and merchant_id = $2 and date = $3', [
        ids,
        merchantId,
        date,
      ]);
    else
      await transaction.query(
        `delete from meter_quarters
         where meter_id = any($1) and merchant_id = $2 and bucket >= $3::timestamptz and bucket < $4::timestamptz`,
        [ids, merchantId, within?.from ?? `${date}T00:00:00Z`, within?.until ?? `${addDays(date, 1)}T00:00:00Z`],
      );
    const scope: EventScope = { of: 'day', merchantIds: [merchantId], date, within: isOld ? undefined : within };
    await add(transaction, own, scope, { first: date, last: date, horizon });
    await mark(transaction, merchantId, date, horizon);
  }

  const checks = createMeterChecks(dataSource, partitions, { recompute, mark, metersOf, horizonOf });

  return {
    ...checks,
    derive: (maxEvents) =>
      inTransaction(dataSource, async (transaction) => {
        const none = { flushes: 0, events: 0 };
        if (!(await tryLockMeters(transaction))) return none;
        const flushes = await runSql(transaction, 'take-flushes-for-meters', [maxEvents, MAX_FLUSHES], FlushRow);
        if (flushes.length === 0) return none;
        await afterCommits(dataSource, transaction);
        const ids = flushes.map(({ id }) => id);
        const dates = flushes.flatMap((flush) => [flush.first_date ?? [], flush.last_date ?? []].flat()).sort();
        const meters = await metersOf(transaction);
        const { run, quarters_from: horizon } = await nextRun(transaction);
        const [first, last] = [dates[0], dates.at(-1)];
        if (meters.length > 0 && first && last)
          await add(transaction, meters, { of: 'flushes', ids, first, last }, { first, last, horizon });
        await transaction.query('update usage_flushes set metered = $1 where id = any($2::bigint[])', [run, ids]);
        await betweenMoments(dataSource, transaction);
        return { flushes: flushes.length, events: flushes.reduce((sum, { inserted }) => sum + inserted, 0) };
      }),

    async lag() {
      const [row] = await rows(
        dataSource,
        `select coalesce(sum(inserted), 0) as events,
           coalesce(extract(epoch from clock_timestamp() - min(started_at)) * 1000, 0)::float8 as oldest_ms
         from usage_flushes where metered is null`,
        [],
        LagRow,
      );
      return { events: row!.events, oldestMs: row!.oldest_ms };
    },

    async computeHistory(maxEvents) {
      const next = (executor: Executor) =>
        rows(
          executor,
          `select meter_id, date, after_merchant from meter_history where not done order by date desc, meter_id limit 1`,
          [],
          HistoryRow,
        );
      // Most of the time there is none, and the lock would make others wait.
      if ((await next(dataSource)).length === 0) return false;
      return inTransaction(dataSource, async (transaction) => {
        await lockMeters(transaction);
        // Read again: while this waited, another process may have computed the part.
        const [part] = await next(transaction);
        if (!part) return false;
        const [meter] = (await metersOf(transaction)).filter(({ id }) => id === part.meter_id);
        if (!meter) return true;
        const counts = await rows(
          transaction,
          `select merchant_id, count(*) as events from usage_events
           where date = $1 and merchant_id > $2 and ($3 = '' or merchant_id = $3)
           group by 1 order by 1 limit $4`,
          [part.date, part.after_merchant, meter.merchantId, MERCHANTS_LOOKED_AT],
          CountRow,
        );
        let events = 0;
        let chosen = counts.findIndex((each) => {
          events += each.events;
          return events >= maxEvents;
        });
        if (chosen < 0) chosen = counts.length - 1;
        const isLast = chosen === counts.length - 1 && counts.length < MERCHANTS_LOOKED_AT;
        const upTo = isLast ? null : counts[chosen]!.merchant_id;
        const { date, after_merchant: after } = part;
        const scope: EventScope = { of: 'history', date, after, upTo, before: meter.createdRun };
        await add(transaction, [meter], scope, { first: date, last: date, horizon: await horizonOf(transaction) });
        await transaction.query(
          'update meter_history set after_merchant = coalesce($3, after_merchant), done = $4 where meter_id = $1 and date = $2',
          [meter.id, date, upTo, isLast],
        );
        // Whoever finds a day computed also finds its sums.
        if (isLast) await betweenMoments(dataSource, transaction);
        return true;
      });
    },

    fold: (today, quietMs, limit) =>
      inTransaction(dataSource, async (transaction) => {
        if (!(await tryLockMeters(transaction))) return 0;
        const ids = (await metersOf(transaction)).map(({ id, ...meter }) => ({ id, kind: kindOf({ ...meter }) }));
        const all = ids.map(({ id }) => id);
        let folded = 0;
        for (const { grain, table, column, finer, length, periodOf } of FOLDED) {
          const finerGrain = FOLDED.find((each) => each.table === finer)?.grain ?? null;
          const dirty = await rows(
            transaction,
            `select merchant_id, period from meter_marks as mark
             where grain = $1 and period < $2 and marked_at <= clock_timestamp() - $3 * interval '1 millisecond'
               and not exists (
                 select from meter_marks as fine
                 where fine.merchant_id = mark.merchant_id and fine.grain = $5 and fine.period >= mark.period
                   and fine.period < mark.period + $6::interval)
             order by period, merchant_id limit $4`,
            [grain, periodOf(today).startDate, quietMs * (PATIENCE[grain] ?? 1), limit, finerGrain, length],
            PeriodRow,
          );
          if (dirty.length === 0) continue;
          const wanted = [dirty.map((row) => row.merchant_id), dirty.map((row) => row.period)];
          await transaction.query(
            `delete from ${table} as coarse
             using unnest($1::text[], $2::date[]) as wanted (merchant_id, period)
             where coarse.meter_id = any($3) and coarse.merchant_id = wanted.merchant_id
               and coarse.${column} = wanted.period`,
            [...wanted, all],
          );
          for (const kind of KINDS) {
            const own = ids.filter((meter) => meter.kind === kind).map(({ id }) => id);
            if (own.length === 0) continue;
            const from = `unnest($1::text[], $2::date[]) as wanted (merchant_id, period)
              join ${finer} as fine on fine.meter_id = any($3) and fine.merchant_id = wanted.merchant_id and ${
                finer === 'meter_quarters'
                  ? `fine.bucket >= wanted.period::timestamp at time zone 'UTC'
                    and fine.bucket < (wanted.period + 1)::timestamp at time zone 'UTC'`
                  : `fine.${PERIOD[finer]} >= wanted.period
                    and fine.${PERIOD[finer]} < (wanted.period + interval '${length}')::date`
              }`;
            await transaction.query(foldRows(kind, from, table, 'wanted.period'), [...wanted, own]);
          }
          await transaction.query(
            `delete from meter_marks as mark
             using unnest($1::text[], $2::date[]) as wanted (merchant_id, period)
             where mark.merchant_id = wanted.merchant_id and mark.grain = $3 and mark.period = wanted.period`,
            [...wanted, grain],
          );
          // Months were marked together with their days.
          const coarser = grain === 'day' ? undefined : FOLDED.find((each) => each.finer === table);
          if (coarser)
            await transaction.query(
              `insert into meter_marks (merchant_id, grain, period)
               select distinct merchant_id, '${coarser.grain}', date_trunc('${coarser.unit}', period)::date
               from unnest($1::text[], $2::date[]) as folded (merchant_id, period)
               on conflict (merchant_id, grain, period) do update set marked_at = excluded.marked_at`,
              wanted,
            );
          folded += dirty.length;
        }
        if (folded > 0) await betweenMoments(dataSource, transaction);
        return folded;
      }),

    async prune(firstKept) {
      await inTransaction(dataSource, async (transaction) => {
        await lockMeters(transaction);
        await transaction.query(
          `update meter_state set quarters_from = $1
           where quarters_from < $1 and not exists (select from meter_marks where grain = 'day' and period < $1)`,
          [firstKept],
        );
      });
      let removed = 0;
      // A node of Citus has no row of another one by its place; there each removes its own in one statement.
      const atOnce = await isDistributed(dataSource);
      const removeFrom = async (table: string, where: string) => {
        const some = `ctid = any(array(select ctid from ${table} where ${where} limit ${ROWS_REMOVED_AT_ONCE}))`;
        for (;;) {
          const [, count] = (await dataSource.query(`delete from ${table} where ${atOnce ? where : some}`)) as [
            unknown,
            number,
          ];
          removed += count;
          if (atOnce || count < ROWS_REMOVED_AT_ONCE) return;
        }
      };
      const horizon = await horizonOf(dataSource);
      await removeFrom('meter_quarters', `bucket < '${horizon}T00:00:00Z'`);
      await removeFrom('meter_values', 'date in (select date from usage_closed_days)');
      const gone = (await dataSource.query('select id from meters where removed_at is not null and not purged')) as {
        id: number;
      }[];
      for (const { id } of gone) {
        for (const table of ROLLUP_TABLES) await removeFrom(table, `meter_id = ${id}`);
        await dataSource.query('update meters set purged = true where id = $1', [id]);
      }
      return removed;
    },

    async adjusted(transaction, { merchantId, idsByDay, voids }) {
      await lockMeters(transaction);
      const { run, quarters_from: horizon } = await nextRun(transaction);
      const meters = (await metersOf(transaction)).filter(
        (meter) => meter.merchantId === '' || meter.merchantId === merchantId,
      );
      // Without a run, they are part of the history of every later meter.
      if (meters.length === 0 && voids === undefined) return;
      await transaction.query(
        'update usage_adjustments set metered = $1, void_of = $2 where merchant_id = $3 and id = any($4)',
        [run, voids ?? null, merchantId, [...idsByDay.values()].flat()],
      );
      if (meters.length === 0) return;
      if (voids !== undefined) {
        const [date] = idsByDay.keys();
        const [event] = await rows(
          transaction,
          'select time from usage_events where date = $1 and merchant_id = $2 and id = $3',
          [date, merchantId, voids],
          TimeRow,
        );
        if (event) await recompute(transaction, meters, { merchantId, date: date!, within: quarterHourOf(event.time) });
        return;
      }
      const closed = await rows(
        transaction,
        'select date, closed_at from usage_closed_days where date = any($1::date[])',
        [[...idsByDay.keys()]],
        ClosedRow,
      );
      const closedAt = new Map(closed.map((row) => [row.date, row.closed_at]));
      const wasClosed = (date: Day, at: Date) => (closedAt.get(date) ?? Number.POSITIVE_INFINITY) <= at;
      for (const [date, ids] of idsByDay) {
        // A meter does not know days that were closed before it was created.
        const knowing = meters.filter(
          ({ createdAt, aggregation }) =>
            (aggregation === 'SUM' || aggregation === 'COUNT') && !wasClosed(date, createdAt),
        );
        if (knowing.length === 0) continue;
        await add(transaction, knowing, { of: 'adjustments', merchantId, ids }, { first: date, last: date, horizon });
      }
    },

    async rebuildDays(transaction, merchantId, { open, closed }) {
      await lockMeters(transaction);
      const meters = await metersOf(transaction);
      for (const date of open) await recompute(transaction, meters, { merchantId, date });
      if (closed.length === 0) return;
      const horizon = await horizonOf(transaction);
      for (const date of closed) await mark(transaction, merchantId, date, horizon);
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
        const merchants = await rows(
          dataSource,
          `select merchant_id from usage_events where date = $1 and ($2::text[] is null or merchant_id = any($2))
           union
           select merchant_id from usage_adjustments where date = $1 and ($2::text[] is null or merchant_id = any($2))
           union
           select merchant_id from meter_days
           where meter_id = $3 and date = $1 and ($2::text[] is null or merchant_id = any($2))
           union
           select merchant_id from meter_quarters
           where meter_id = $3 and bucket >= $4::timestamptz and bucket < $4::timestamptz + interval '1 day'
             and ($2::text[] is null or merchant_id = any($2))`,
          [date, only, id, `${date}T00:00:00Z`],
          MerchantRow,
        );
        for (const { merchant_id: merchantId } of merchants) {
          const isOpen = await inTransaction(dataSource, async (transaction) => {
            // Invalidates cached answers about the rebuilt days. Corrections take these locks in this order, too.
            await runSql(transaction, 'touch-days', [merchantId, [date]], z.unknown());
            await lockMeters(transaction);
            if ((await partitions.open(transaction, [date])).length === 0) return false;
            const meters = (await metersOf(transaction)).filter((meter) => meter.id === id);
            await recompute(transaction, meters, { merchantId, date });
            return true;
          });
          if (isOpen) merchantDays++;
          else closedDays++;
        }
      }
      return { merchantDays, closedDays };
    },
  };
}

/** A late event makes a trimester dirty, whose months are read meanwhile; so it waits longer to be rebuilt once. */
const PATIENCE: Partial<Record<Grain, number>> = { trimester: 60, year: 60 };

function quarterHourOf(time: Date): QuarterHours {
  const from = Math.floor(Number(time) / QUARTER_HOUR_MS) * QUARTER_HOUR_MS;
  return { from: new Date(from).toISOString(), until: new Date(from + QUARTER_HOUR_MS).toISOString() };
}
