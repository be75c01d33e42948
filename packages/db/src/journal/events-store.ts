import type { Day, Units as UnitsType } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { DateText, Moment, Units } from '../rows.ts';
import { runSql } from '../run-sql.ts';
import type { JournalLine } from './journal-line.ts';

/** A number of one merchant: its metric types, days and dimension values. */
export type Explained = {
  merchantId: string;
  startDate: Day;
  endDate: Day;
  metricTypes: readonly string[];
  userIds?: readonly string[] | undefined;
  apiKeys?: readonly string[] | undefined;
  models?: readonly string[] | undefined;
  providers?: readonly string[] | undefined;
};

/** The parts of a number on one day. */
export type DayPart = {
  date: Day;
  entries: bigint;
  calls: bigint;
  /** Amounts of the kept events, and of the adjustments. */
  eventAmount: UnitsType;
  adjustmentAmount: UnitsType;
  /** Both, as rollups have them under the names of the filters. */
  rolledAmount: UnitsType;
  /** The kept sum of a closed day, whatever the filters; null if nothing was kept. */
  closedAmount: UnitsType | null;
  /** The number in `merchant_usage`; with filters in `usage_daily`, which has only the five measures. */
  storedAmount: UnitsType;
  isClosed: boolean;
};

export type EventsStore = {
  /** Returns the newest events of a merchant in the journal, by their own time. */
  recent(merchantId: string, limit: number): Promise<JournalLine[]>;
  /** Returns the parts of a number, by day, at one moment, without empty days. */
  daysOf(number: Explained): Promise<DayPart[]>;
  /** Returns the newest flushes behind a number, and the number of all. */
  flushesOf(number: Explained, limit: number): Promise<{ newest: FlushPart[]; count: number }>;
  /** Returns a page of the events behind it, in order of day and id. */
  entriesOf(number: Explained, page: { after: { date: Day; id: string }; limit: number }): Promise<JournalLine[]>;
  /**
   * Returns whether a merchant ever had one of these metric types, or any, and the first day without dropped events.
   */
  recorded(
    merchantId: string,
    metricTypes: readonly string[],
  ): Promise<{ hasMetric: boolean; hasAny: boolean; keptFrom: Day | null }>;
  /** Returns the metric types of a merchant, at most `limit`, in order. */
  metricTypesOf(merchantId: string, limit: number): Promise<string[]>;
  /** Returns how many events of a merchant the journal has on some days, at most `limit`. */
  countUpTo(limit: number, of: { merchantId: string; startDate: Day; endDate: Day }): Promise<number>;
  /** Returns the days before `day` on which a merchant has usage, in order. */
  daysBefore(merchantId: string, day: Day): Promise<Day[]>;
  /** Returns the events of a merchant with an id on some days, at most one per day, in order of the days. */
  withId(merchantId: string, id: string, dates: readonly Day[]): Promise<JournalLine[]>;
  /** Returns the newest event with an id, which must begin with `lago:`, of a merchant; null: of any. */
  ofLago(id: string, merchantId: string | null): Promise<JournalLine | undefined>;
};

/** One flush's part of a number. */
export type FlushPart = { flushId: string; source: string; at: string; entries: bigint; calls: bigint; value: bigint };

const FlushRow = z
  .object({
    flush_id: z.string(),
    source: z.string(),
    started_at: Moment,
    entries: Units,
    calls: Units,
    value: Units,
    all_flushes: z.string().transform(Number),
  })
  .transform(({ flush_id, started_at, ...row }) => ({ ...row, flushId: flush_id, at: started_at }));

const DayRow = z
  .object({
    date: DateText,
    entries: Units,
    calls: Units,
    event_amount: Units,
    adjustment_amount: Units,
    rolled_amount: Units,
    closed_amount: Units.nullable(),
    stored_amount: Units,
    is_closed: z.boolean(),
  })
  .transform(
    ({ date, entries, calls, ...row }): DayPart => ({
      date,
      entries,
      calls,
      eventAmount: row.event_amount,
      adjustmentAmount: row.adjustment_amount,
      rolledAmount: row.rolled_amount,
      closedAmount: row.closed_amount,
      storedAmount: row.stored_amount,
      isClosed: row.is_closed,
    }),
  );

const RecordedRow = z.object({ has_metric: z.boolean(), has_any: z.boolean(), kept_from: DateText.nullable() });

const none = z.string().transform((text) => (text === '' ? undefined : text));
const amount = z.string().transform((text) => (text === '0' ? undefined : text));

/** Converts a row of `usage_events` back to its line. */
export const EventRow = z
  .object({
    date: DateText,
    merchant_id: z.string(),
    id: z.string(),
    time: z.date().transform((date) => date.getTime()),
    user_id: none,
    api_key: none,
    model: none,
    provider: none,
    failed: z.boolean().transform((failed) => failed || undefined),
    calls: z.string(),
    requests: amount,
    failed_requests: amount,
    prompt_tokens: amount,
    completion_tokens: amount,
    cost: amount,
    metrics: z.record(z.string(), z.string()).nullable(),
    properties: z.record(z.string(), z.union([z.string(), z.number(), z.boolean()])).nullable(),
    price_version: z.string().nullable(),
  })
  .transform(({ metrics, properties, price_version, ...row }) => ({
    ...row,
    ...(price_version !== null && { price: price_version }),
    ...(metrics && { metrics }),
    ...(properties && { properties }),
  }));

/** Single events: reads the journal back. */
export function createEventsStore(dataSource: DataSource): EventsStore {
  return {
    async recent(merchantId, limit) {
      return (await runSql(dataSource, 'recent-events', [merchantId, limit], EventRow)) as JournalLine[];
    },
    daysOf: (number) =>
      runSql(dataSource, 'explain-days', [...scopeOf(number), filtersOf(number).some((each) => each !== null)], DayRow),
    async flushesOf(number, limit) {
      const rows = await runSql(dataSource, 'explain-flushes', [...scopeOf(number), limit], FlushRow);
      return { newest: rows.map(({ all_flushes: _, ...part }) => part), count: rows[0]?.all_flushes ?? 0 };
    },
    async entriesOf(number, { after, limit }) {
      const values = [...scopeOf(number), after.date, after.id, limit];
      return (await runSql(dataSource, 'explain-entries', values, EventRow)) as JournalLine[];
    },
    async recorded(merchantId, metricTypes) {
      const [row] = await runSql(dataSource, 'recorded-metrics', [merchantId, metricTypes], RecordedRow);
      return { hasMetric: row!.has_metric, hasAny: row!.has_any, keptFrom: row!.kept_from };
    },
    async metricTypesOf(merchantId, limit) {
      const Row = z.object({ metric_type: z.string() });
      const rows = await runSql(dataSource, 'metric-types-of', [merchantId, limit], Row);
      return rows.map((row) => row.metric_type);
    },
    async countUpTo(limit, { merchantId, startDate, endDate }) {
      const Row = z.object({ events: z.string().transform(Number) });
      const [row] = await runSql(dataSource, 'count-events', [merchantId, startDate, endDate, limit], Row);
      return row!.events;
    },
    async daysBefore(merchantId, day) {
      const rows = await runSql(dataSource, 'days-before', [merchantId, day], z.object({ date: DateText }));
      return rows.map(({ date }) => date);
    },
    async withId(merchantId, id, dates) {
      return (await runSql(dataSource, 'find-events', [merchantId, id, dates], EventRow)) as JournalLine[];
    },
    async ofLago(id, merchantId) {
      const [line] = await runSql(dataSource, 'find-lago-event', [id, merchantId], EventRow);
      return line as JournalLine | undefined;
    },
  };
}

/** Converts filters to parameters of the statements: null for all, '' for `unknown`. */
export const filtersOf = ({ userIds, apiKeys, models, providers }: Partial<Explained>): (string[] | null)[] =>
  [userIds, apiKeys, models, providers].map((values) =>
    values && values.length > 0 ? values.map((value) => (value === 'unknown' ? '' : value)) : null,
  );

const scopeOf = ({ merchantId, startDate, endDate, metricTypes, ...filters }: Explained) => [
  merchantId,
  startDate,
  endDate,
  metricTypes,
  ...filtersOf(filters),
];
