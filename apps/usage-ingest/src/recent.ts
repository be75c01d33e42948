import { formatQuantity, type ScaleOf, type StoredEntry } from '@tally/contracts';
import type { Db, JournalLine } from '@tally/db';
import type { Counters } from './counters/counters.ts';
import { amountsOf } from './line.ts';
import type { Scales } from './meters/registry.ts';
import type { Pending } from './pending.ts';

/**
 * Returns the newest events of a merchant: flushes pending ones, then reads the journal. While Postgres is unavailable,
 * returns the newest pending events of Redis. `complete` is false if newer ones may be missing.
 */
export type RecentEntries = (merchantId: string, limit: number) => Promise<{ rows: StoredEntry[]; complete: boolean }>;

/** Pending events read while Postgres is unavailable. */
const MAX_LINES = 10_000;

export function createRecentEntries(options: {
  counters: Counters;
  pending: Pending;
  db: Pick<Db, 'events'>;
  scales: Scales;
  /** Flushes pending events of these merchants, for a bounded time; returns true if none are left. Never throws. */
  flushSoon(merchantIds: readonly string[]): Promise<boolean>;
}): RecentEntries {
  const { counters, pending, db } = options;
  return async (merchantId, limit) => {
    try {
      const complete = await options.flushSoon([merchantId]);
      const lines = await db.events.recent(merchantId, limit);
      const scaleOf = await options.scales(typesOf(lines));
      return { rows: lines.map((line) => presentLine(line, true, scaleOf)), complete };
    } catch (error) {
      const lines = await pending.newest(counters.keys.shardOf(merchantId), merchantId, MAX_LINES).catch(() => {
        throw error;
      });
      const newest = lines.sort((a, b) => b.time - a.time).slice(0, limit);
      const scaleOf = await options.scales(typesOf(newest));
      return { rows: newest.map((line) => presentLine(line, false, scaleOf)), complete: false };
    }
  };
}

/** The metric types of lines that are not measures. */
export const typesOf = (lines: readonly JournalLine[]): string[] => [
  ...new Set(lines.flatMap(({ metrics }) => Object.keys(metrics ?? {}))),
];

/** Presents a journal line to callers. */
export function presentLine(line: JournalLine, flushed: boolean, scaleOf: ScaleOf): StoredEntry {
  return {
    id: line.id,
    merchantId: line.merchant_id,
    time: new Date(line.time).toISOString(),
    date: line.date,
    metrics: Object.fromEntries(amountsOf(line).map(([type, units]) => [type, formatQuantity(type, units, scaleOf)])),
    userId: line.user_id ?? null,
    apiKey: line.api_key ?? null,
    model: line.model ?? null,
    provider: line.provider ?? null,
    status: line.failed ? 'failure' : 'success',
    count: line.calls ?? '1',
    properties: line.properties ?? {},
    priceVersion: line.price ?? null,
    flushed,
  };
}
