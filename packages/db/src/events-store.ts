import type { Day } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import type { JournalLine } from './journal-line.ts';
import { DateText, Moment, Units } from './rows.ts';
import { runSql } from './run-sql.ts';

export type EventsStore = {
  /** The newest entries of a merchant in the journal, by their own time. */
  recent(merchantId: string, limit: number): Promise<JournalLine[]>;
  /** The newest flushes that made a number of a merchant's day, and the sums of all of them. */
  flushesOf(
    merchantId: string,
    date: Day,
    metricTypes: readonly string[],
    limit: number,
  ): Promise<{ newest: FlushPart[]; flushes: number; entries: bigint; calls: bigint }>;
  /** A page of the entries that made it, in order of their ids. */
  entriesOf(
    merchantId: string,
    date: Day,
    metricTypes: readonly string[],
    page: { after: string; limit: number },
  ): Promise<JournalLine[]>;
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
    all_entries: Units,
    all_calls: Units,
  })
  .transform(({ flush_id, started_at, ...row }) => ({ ...row, flushId: flush_id, at: started_at }));

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
    async flushesOf(merchantId, date, metricTypes, limit) {
      // The sums stand beside each row, so one is read where none is wanted.
      const values = [merchantId, date, metricTypes, Math.max(limit, 1)];
      const rows = await runSql(dataSource, 'explain-flushes', values, FlushRow);
      const { all_flushes = 0, all_entries = 0n, all_calls = 0n } = rows[0] ?? {};
      const newest = rows
        .slice(0, limit)
        .map(({ flushId, source, at, entries, calls, value }) => ({ flushId, source, at, entries, calls, value }));
      return { newest, flushes: all_flushes, entries: all_entries, calls: all_calls };
    },
    async entriesOf(merchantId, date, metricTypes, { after, limit }) {
      const values = [merchantId, date, metricTypes, after, limit];
      return (await runSql(dataSource, 'explain-entries', values, EventRow)) as JournalLine[];
    },
    async withId(merchantId, id, dates) {
      return (await runSql(dataSource, 'find-events', [merchantId, id, dates], EventRow)) as JournalLine[];
    },
  };
}
