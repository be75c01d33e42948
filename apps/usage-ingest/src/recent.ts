import { formatQuantity, type StoredEntry } from '@tally/contracts';
import type { Db, JournalLine } from '@tally/db';
import type { Counters } from './counters/counters.ts';
import { amountsOf, identityOf } from './line.ts';

/** The newest entries of a merchant: those that wait in the stream, then those of the journal, each once. */
export type RecentEntries = (merchantId: string, limit: number) => Promise<StoredEntry[]>;

export function createRecentEntries({ counters, db }: { counters: Counters; db: Pick<Db, 'events'> }): RecentEntries {
  return async (merchantId, limit) => {
    // The stream first: what is flushed meanwhile is then found in the journal, and by its identity only once.
    const items = await counters.newestItems(merchantId, limit).catch(() => []);
    const waiting = items.flatMap((item) => JSON.parse(item.lines) as JournalLine[]);
    const counted = await db.events.recent(merchantId, limit);
    const flushed = new Set(counted.map(identityOf));
    return [
      ...waiting.filter((line) => !flushed.has(identityOf(line))).map((line) => presentLine(line, false)),
      ...counted.map((line) => presentLine(line, true)),
    ]
      .sort((a, b) => (a.time < b.time ? 1 : a.time > b.time ? -1 : 0))
      .slice(0, limit);
  };
}

/** A journal line as callers see it. */
export function presentLine(line: JournalLine, flushed: boolean): StoredEntry {
  return {
    id: line.id,
    merchantId: line.merchant_id,
    time: new Date(line.time).toISOString(),
    date: line.date,
    metrics: Object.fromEntries(amountsOf(line).map(([type, units]) => [type, formatQuantity(type, units)])),
    userId: line.user_id ?? null,
    apiKey: line.api_key ?? null,
    model: line.model ?? null,
    provider: line.provider ?? null,
    status: line.failed ? 'failure' : 'success',
    count: line.calls ?? '1',
    properties: line.properties ?? {},
    flushed,
  };
}
