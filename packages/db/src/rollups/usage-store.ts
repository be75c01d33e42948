import {
  addDays,
  type Day,
  type DayRange,
  DIMENSIONS as DIMENSION_ORDER,
  eachDay,
  type Filters,
  monthOf,
  type Units as UnitsType,
} from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import type { DimensionColumn } from '../journal/admission.ts';
import { EventRow } from '../journal/events-store.ts';
import type { JournalLine } from '../journal/journal-line.ts';
import { atOneMoment, beginMoment } from '../one-moment.ts';
import { DateText, Units } from '../rows.ts';
import { type Executor, runSql } from '../run-sql.ts';
import { exactly } from '../unit-sums.ts';
import { type Missing, missingOf, NOTHING_MISSING } from './missing.ts';
import { max, min } from './scope.ts';
import {
  type ExportQuestion,
  type ExportRow,
  eventsStatement,
  exportStatement,
  readerOf,
  ScanRow,
  type UsageReader,
} from './usage-reader.ts';

export type UsageStore = UsageReader & {
  /** Runs reads at one moment: events counted meanwhile are in all of them or in none. */
  snapshot<T>(work: (reader: UsageReader) => Promise<T>): Promise<T>;
  /** Yields the events of a range in the journal, by day, merchant and id, in chunks: bounded memory, one moment. */
  scanEvents(filters: Filters): AsyncGenerator<JournalLine[]>;
  /** Yields the rows of a statement in chunks, through a cursor of the server: bounded memory, one moment. */
  scan(question: ExportQuestion): AsyncGenerator<ExportRow[]>;
  /**
   * Estimates the rows of rollups by user and API key, for plans of these ranges: of their years and months, and the
   * quarters and the requests of the days in their first and last months; with `everyDay`, of all days. `quartersTo`:
   * the first quarter of a month that is not complete.
   */
  rows(
    scope: Pick<Filters, 'merchantIds'> & { ranges: readonly DayRange[]; everyDay?: boolean },
  ): Promise<Record<KnownPeriods, Map<Day, number>> & { quartersTo: Day }>;
  /** Returns the moment from which all that was counted of these days is in the journal; null where it all is. */
  knownFrom(range: DayRange): Promise<Date | null>;
  /** Returns when Postgres last counted anything; null before the first time. */
  lastFlushAt(): Promise<string | null>;
  /**
   * Sums a day and its month up to that day, by merchant and metric type, for at most `merchants` merchants, those that
   * counted most often in the month, and at most `limit` rows.
   */
  gauges(question: {
    month: Day;
    day: Day;
    merchantIds?: readonly string[] | undefined;
    merchants: number;
    limit: number;
  }): Promise<Gauge[]>;
  /** Sums metric types of a day, of a merchant or of all; null if none of them was counted. */
  sumOfDay(day: Day, metricTypes: readonly string[], merchantId: string | null): Promise<bigint | null>;
  /** Counts the rows of `merchant_usage` of a date. */
  countMerchantUsage(date: Day): Promise<number>;
  /** Returns whether one of these dimensions exceeded its limit on a day of these merchants, or of any. */
  overflowed(scope: {
    startDate: Day;
    endDate: Day;
    merchantIds?: readonly string[] | undefined;
    dimensions: readonly DimensionColumn[];
  }): Promise<boolean>;
};

/** A merchant's usage of a metric type today and this month. */
export type Gauge = { merchantId: string; metricType: string; today: UnitsType; month: UnitsType };

const GaugeRow = z.object({ merchant_id: z.string(), metric_type: z.string(), today: Units, month: Units }).transform(
  ({ merchant_id, metric_type, ...row }): Gauge => ({
    ...row,
    merchantId: merchant_id,
    metricType: metric_type,
  }),
);

type KnownPeriods = 'years' | 'months' | 'quarterMonths' | 'requests';

const EXPORT_PIECE = 2_000;

/** Queries over what has been counted. */
export function createUsageStore(dataSource: DataSource): UsageStore {
  /** Runs reads at one moment, including the flushes that are not derived yet. */
  const snapshot: UsageStore['snapshot'] = (work) =>
    exactly((sum) =>
      atOneMoment(dataSource, (runner) =>
        runner.manager.transaction('REPEATABLE READ', async () =>
          work(readerOf(runner as Executor, sum, await missingOf(runner as Executor))),
        ),
      ),
    );
  /** For reads of tables that the counting transaction writes. */
  const nothingDerived = readerOf(dataSource, 'sum', NOTHING_MISSING);

  /**
   * Yields the rows of a statement, through a cursor of the server, in one snapshot. A statement that reads derived rollups
   * is a function of what they lack.
   */
  async function* cursor<Row extends z.ZodType>(
    row: Row,
    values: unknown[],
    statement: string | ((missing: Missing) => string),
  ): AsyncGenerator<z.output<Row>[]> {
    const runner = dataSource.createQueryRunner();
    let endMoment: (() => Promise<void>) | undefined;
    try {
      if (typeof statement !== 'string') endMoment = await beginMoment(dataSource, runner);
      await runner.startTransaction('REPEATABLE READ');
      const text = typeof statement === 'string' ? statement : statement(await missingOf(runner as Executor));
      await runner.query(`declare export no scroll cursor for ${text}`, values);
      for (;;) {
        const rows = (await runner.query(`fetch ${EXPORT_PIECE} from export`)) as unknown[];
        // Citus has read all rows of all nodes by now.
        await endMoment?.();
        endMoment = undefined;
        if (rows.length > 0) yield rows.map((each) => row.parse(each));
        if (rows.length < EXPORT_PIECE) return;
      }
    } finally {
      // Read only: there is nothing to commit, whether the reader finished or left.
      await runner.rollbackTransaction().catch(() => {});
      await endMoment?.().catch(() => {});
      await runner.release();
    }
  }

  return {
    snapshot,
    breakdown: (question) => snapshot((reader) => reader.breakdown(question)),
    byDay: (scope) => snapshot((reader) => reader.byDay(scope)),
    totals: (scope) => snapshot((reader) => reader.totals(scope)),
    activeUsers: (scope) => snapshot((reader) => reader.activeUsers(scope)),
    overview: (question) => snapshot((reader) => reader.overview(question)),
    series: (scope) => snapshot((reader) => reader.series(scope)),
    windows: (scope) => snapshot((reader) => reader.windows(scope)),
    values: (scope) => snapshot((reader) => reader.values(scope)),
    keysByPeriod: (scope) => snapshot((reader) => reader.keysByPeriod(scope)),
    daysWithoutEntries: nothingDerived.daysWithoutEntries,
    merchantUsage: nothingDerived.merchantUsage,

    async *scan(question) {
      const { values, statement } = exportStatement(question);
      yield* cursor(ScanRow, values, statement);
    },

    async *scanEvents(filters) {
      const { values, text } = eventsStatement(filters);
      yield* cursor(EventRow, values, text) as AsyncGenerator<JournalLine[]>;
    },

    async rows({ merchantIds, ranges, everyDay = false }) {
      const startDate = ranges.map((range) => range.startDate).reduce(min);
      const endDate = ranges.map((range) => range.endDate).reduce(max);
      const days = everyDay ? eachDay(startDate, endDate) : ranges.flatMap((range) => [range.startDate, range.endDate]);
      const asked = [...new Set(days.map((day) => monthOf(day).startDate))];
      const merchants = merchantIds?.length ? merchantIds : null;
      const found = await runSql(
        dataSource,
        'rollup-rows',
        [merchants, `${startDate.slice(0, 4)}-01-01`, `${endDate.slice(0, 4)}-12-31`, asked],
        RollupRow,
      );
      const of = (rollup: string) =>
        new Map(found.filter((row) => row.rollup === rollup).map((row) => [row.period, row.rows]));
      const [years, counted, requests] = [of('usage_yearly'), of('usage_monthly'), of('usage_daily')];
      // An open day adds at most as many rows as it has requests, and rarely more than the whole month before it.
      const months = new Map(counted);
      const add = (rows: Map<Day, number>, period: Day, more: number) =>
        rows.set(period, (rows.get(period) ?? 0) + more);
      const firstOpen = found.find((row) => row.rollup === 'open')!.period;
      for (const [day, most] of requests) {
        if (day < firstOpen) continue;
        const month = monthOf(day).startDate;
        const before = monthOf(addDays(month, -1)).startDate;
        const more = Math.min(most, counted.get(month) || counted.get(before) || most);
        add(months, month, more);
        add(years, `${day.slice(0, 4)}-01-01`, more);
      }
      const quartersTo = found.find((row) => row.rollup === 'quarter')!.period;
      return { years, months, quarterMonths: of('usage_quarter_months'), requests, quartersTo };
    },

    async overflowed({ startDate, endDate, merchantIds, dimensions }) {
      const numbers = dimensions.map((name) => DIMENSION_ORDER.indexOf(name));
      const merchants = merchantIds?.length ? merchantIds : null;
      const values = [startDate, endDate, merchants, numbers];
      const [row] = await runSql(dataSource, 'overflowed', values, z.object({ found: z.boolean() }));
      return row!.found;
    },
    async knownFrom({ startDate, endDate }) {
      const Row = z.object({ known_from: z.date().nullable() });
      const [row] = await runSql(dataSource, 'known-from', [startDate, endDate], Row);
      return row!.known_from;
    },
    async lastFlushAt() {
      const [row] = await runSql(dataSource, 'last-flush', [], z.object({ started_at: z.date() }));
      return row?.started_at.toISOString() ?? null;
    },
    gauges: ({ month, day, merchantIds, merchants, limit }) =>
      runSql(dataSource, 'usage-gauges', [month, day, merchantIds ?? null, merchants, limit], GaugeRow),
    async sumOfDay(...question) {
      const [row] = await runSql(dataSource, 'sum-of-day', question, z.object({ sum: Units.nullable() }));
      return row!.sum;
    },
    async countMerchantUsage(date) {
      const [row] = await runSql(dataSource, 'count-merchant-usage', [date], z.object({ rows: z.number() }));
      return row!.rows;
    },
  };
}

const RollupRow = z.object({ rollup: z.string(), period: DateText, rows: z.string().transform(Number) });
