import type { Day, Units as UnitsType } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { isDistributed } from '../distribution.ts';
import { type LineToAppend, OLD_ORIGIN } from '../journal/journal-line.ts';
import { atOneMoment, shareMoment } from '../one-moment.ts';
import { DateText, type MerchantDay, MetricSum, Units } from '../rows.ts';
import { type Executor, runSql, sql } from '../run-sql.ts';

/** One merchant, day and metric type in every stored form of Postgres; null in a form that does not keep the type. */
export type FormsRow = MerchantDay & {
  metricType: string;
  journal: UnitsType;
  usage: UnitsType;
  daily: UnitsType | null;
  dailyModels: UnitsType | null;
  quarterHours: UnitsType | null;
};

/**
 * A period, named by its first day, whose derived rollup differs from the sum of its source. Rollups of all merchants
 * have the merchant ''.
 */
export type PeriodRow = MerchantDay & {
  /** The table that differs. */
  rollup: string;
  metricType: string;
  parts: UnitsType;
  whole: UnitsType;
};

export type StoredFormsStore = {
  /** Returns the stored forms of a range, as one transaction sees them. */
  read(scope: FormsScope, transaction: Executor): Promise<FormsRow[]>;
  /** Returns periods of the range whose derived rollups differ; rollups of all merchants only without `merchantIds`. */
  periodsApart(scope: FormsScope): Promise<PeriodRow[]>;
  /**
   * Days of merchants whose `usage_priced` is not what their events and re-ratings make, as one transaction sees them.
   */
  pricedApart(scope: FormsScope, transaction: Executor): Promise<PeriodRow[]>;
  /** Merchants with usage in the range. */
  merchants(startDate: Day, endDate: Day): Promise<string[]>;
  /** Returns those of these events that the journal has, as `date id`. */
  known(merchantId: string, entries: readonly { date: Day; id: string }[], transaction: Executor): Promise<Set<string>>;
  /** Returns the sums of some merchants' days, as one transaction sees them. */
  sums(
    scope: { merchantIds: readonly string[]; startDate: Day; endDate: Day },
    transaction: Executor,
  ): Promise<(MerchantDay & { metricType: string; units: UnitsType })[]>;
  /** Positions of the lines that were counted themselves: their journal row has their own origin. */
  counted(lines: readonly LineToAppend[], transaction?: Executor): Promise<Set<number>>;
  /**
   * Returns a merchant's day at one moment: its sums by metric type, dead letters included, and the sums of those of
   * these lines that are not in them.
   */
  day(
    merchantId: string,
    date: Day,
    lines: readonly LineToAppend[],
  ): Promise<{
    sums: Map<string, UnitsType>;
    notCounted: LineToAppend[];
  }>;
  /** Returns events that may explain a difference on a merchant's day. */
  suspects(merchantId: string, date: Day, limit: number, transaction: Executor): Promise<{ id: string; why: string }[]>;
  /** Returns merchants' days whose running totals are known to be too low or too high. */
  staleTotals(limit: number): Promise<MerchantDay[]>;
  /** Returns all merchants that have such days. */
  staleMerchants(): Promise<string[]>;
  /** Clears such marks, except those that were set again after `before`. */
  settled(days: readonly MerchantDay[], before: Date): Promise<void>;
  /** Returns the clock of Postgres, for `settled`. */
  now(): Promise<Date>;
};

export type FormsScope = { merchantIds?: readonly string[] | undefined; startDate: Day; endDate: Day };

const Forms = z
  .object({
    merchant_id: z.string(),
    date: DateText,
    metric_type: z.string(),
    journal: Units,
    usage: Units,
    daily: Units.nullable(),
    daily_models: Units.nullable(),
    quarter_hours: Units.nullable(),
  })
  .transform(({ merchant_id, metric_type, daily_models, quarter_hours, ...row }) => ({
    ...row,
    merchantId: merchant_id,
    metricType: metric_type,
    dailyModels: daily_models,
    quarterHours: quarter_hours,
  }));

const Period = z
  .object({
    rollup: z.string(),
    merchant_id: z.string(),
    date: DateText,
    metric_type: z.string(),
    parts: Units,
    whole: Units,
  })
  .transform(({ merchant_id, metric_type, ...row }) => ({ ...row, merchantId: merchant_id, metricType: metric_type }));

const DayRow = z.object({
  metric_type: z.string().nullable(),
  metric_value: Units.nullable(),
  position: z.number().int().nullable(),
});

/** Compares the stored forms that must be equal, and records running totals known to be wrong. */
export function createStoredFormsStore(dataSource: DataSource): StoredFormsStore {
  return {
    async read({ merchantIds, startDate, endDate }, transaction) {
      await shareMoment(dataSource, transaction);
      return runSql(transaction, 'stored-forms', [merchantIds ?? null, startDate, endDate], Forms);
    },
    periodsApart: ({ merchantIds, startDate, endDate }) =>
      atOneMoment(dataSource, (runner) =>
        // Its snapshot is older than its plan, which then knows the partitions of all flushes in it.
        runner.manager.transaction('REPEATABLE READ', () =>
          runSql(runner as Executor, 'period-drift', [merchantIds ?? null, startDate, endDate], Period),
        ),
      ),
    pricedApart: ({ merchantIds, startDate, endDate }, transaction) =>
      runSql(transaction, 'priced-drift', [merchantIds ?? null, startDate, endDate], Period),
    async merchants(startDate, endDate) {
      const name = (await isDistributed(dataSource)) ? 'merchants-between-nodes' : 'merchants-between';
      const rows = await runSql(dataSource, name, [startDate, endDate], z.object({ merchant_id: z.string() }));
      return rows.map((row) => row.merchant_id);
    },
    async known(merchantId, entries, transaction) {
      if (entries.length === 0) return new Set();
      const values = [merchantId, entries.map((each) => each.date), entries.map((each) => each.id)];
      const rows = await runSql(transaction, 'known-entries', values, z.object({ date: DateText, id: z.string() }));
      return new Set(rows.map((row) => `${row.date} ${row.id}`));
    },
    sums: ({ merchantIds, startDate, endDate }, transaction) =>
      runSql(transaction, 'merchant-sums', [merchantIds, startDate, endDate], MetricSum),
    async counted(lines, transaction = dataSource) {
      if (lines.length === 0) return new Set();
      const column = (pick: (line: LineToAppend) => string) => lines.map(pick);
      const [dates, merchants] = [column((line) => line.date), column((line) => line.merchant_id)];
      const values = [dates, merchants, column((line) => line.id), column((line) => line.origin), OLD_ORIGIN];
      const rows = await runSql(transaction, 'counted-lines', values, z.object({ position: z.number().int() }));
      return new Set(rows.map((row) => row.position));
    },
    async day(merchantId, date, lines) {
      const [ids, origins] = [lines.map((line) => line.id), lines.map((line) => line.origin)];
      const values = [merchantId, date, ids, origins, OLD_ORIGIN];
      const rows = await runSql(dataSource, 'day-with-lines', values, DayRow);
      const counted = new Set(rows.map((row) => row.position));
      const sums = new Map<string, UnitsType>();
      for (const { metric_type: type, metric_value: units } of rows) {
        if (type !== null) sums.set(type, (sums.get(type) ?? 0n) + units!);
      }
      return { sums, notCounted: lines.filter((_, position) => !counted.has(position)) };
    },
    suspects: (merchantId, date, limit, transaction) =>
      runSql(transaction, 'suspects', [merchantId, date, limit], z.object({ id: z.string(), why: z.string() })),
    async staleTotals(limit) {
      const Row = z.object({ merchant_id: z.string(), date: DateText });
      const rows = await runSql(dataSource, 'stale-totals', [limit], Row);
      return rows.map((row) => ({ merchantId: row.merchant_id, date: row.date }));
    },
    async staleMerchants() {
      const rows = await runSql(dataSource, 'stale-merchants', [], z.object({ merchant_id: z.string() }));
      return rows.map((row) => row.merchant_id);
    },
    async settled(days, before) {
      const [merchantIds, dates] = [days.map((day) => day.merchantId), days.map((day) => day.date)];
      await dataSource.query(sql('settle-totals'), [merchantIds, dates, before]);
    },
    async now() {
      const [row] = await runSql(dataSource, 'clock', [], z.object({ now: z.date() }));
      return row!.now;
    },
  };
}
