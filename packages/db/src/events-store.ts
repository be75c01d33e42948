import type { Day, Units as UnitsType } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import type { JournalLine } from './journal-line.ts';
import { DateText, Moment, Units } from './rows.ts';
import { runSql } from './run-sql.ts';

/** A number of one merchant: some metric types that make it, on some days, for some dimension values. */
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

/** What made a number on one day. */
export type DayPart = {
  date: Day;
  entries: bigint;
  calls: bigint;
  /** Amounts of the events that are kept, and of the adjustments. */
  eventAmount: UnitsType;
  adjustmentAmount: UnitsType;
  /** Both, of what rollups have under the names of the filters. */
  rolledAmount: UnitsType;
  /** What was kept of the events of a closed day, whatever the filters; null where nothing was. */
  closedAmount: UnitsType | null;
  /** The number in `merchant_usage`; with filters in `usage_daily`, which has the five measures only. */
  storedAmount: UnitsType;
  isClosed: boolean;
};

export type EventsStore = {
  /** The newest entries of a merchant in the journal, by their own time. */
  recent(merchantId: string, limit: number): Promise<JournalLine[]>;
  /** What made a number, by day, at one moment; days without any of it are left out. */
  daysOf(number: Explained): Promise<DayPart[]>;
  /** The newest flushes that made a number, and how many did. */
  flushesOf(number: Explained, limit: number): Promise<{ newest: FlushPart[]; count: number }>;
  /** A page of the entries that made it, in order of their days and ids. */
  entriesOf(number: Explained, page: { after: { date: Day; id: string }; limit: number }): Promise<JournalLine[]>;
  /** Whether a merchant ever had one of these metric types, or any; and the first day from which no events were dropped. */
  recorded(
    merchantId: string,
    metricTypes: readonly string[],
  ): Promise<{ hasMetric: boolean; hasAny: boolean; keptFrom: Day | null }>;
  /** The metric types that a merchant had, at most `limit`, in order. */
  metricTypesOf(merchantId: string, limit: number): Promise<string[]>;
  /** The entries of a merchant with an id on some days, at most one a day, in order of the days. */
  withId(merchantId: string, id: string, dates: readonly Day[]): Promise<JournalLine[]>;
};

/** What one flush brought to a number. */
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

/** A row of `usage_events`, read back as the line that it was. */
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

/** Entries, one by one: reading the journal back. */
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
    async withId(merchantId, id, dates) {
      return (await runSql(dataSource, 'find-events', [merchantId, id, dates], EventRow)) as JournalLine[];
    },
  };
}

/** Users, API keys, models and providers as the statements take them: null for all, '' for `unknown`. */
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
