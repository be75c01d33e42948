import type { DataSource } from 'typeorm';
import { z } from 'zod';
import type { JournalLine } from './journal-line.ts';
import { DateText } from './rows.ts';
import { runSql } from './run-sql.ts';

export type EventsStore = {
  /** The newest entries of a merchant in the journal, by their own time. */
  recent(merchantId: string, limit: number): Promise<JournalLine[]>;
};

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
  })
  .transform(({ metrics, properties, ...row }) => ({
    ...row,
    ...(metrics && { metrics }),
    ...(properties && { properties }),
  }));

/** Entries, one by one: reading the journal back. */
export function createEventsStore(dataSource: DataSource): EventsStore {
  return {
    async recent(merchantId, limit) {
      return (await runSql(dataSource, 'recent-events', [merchantId, limit], EventRow)) as JournalLine[];
    },
  };
}
