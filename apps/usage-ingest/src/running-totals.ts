import { addDays, type Day, dayOf, type Units } from '@tally/contracts';
import type { Db } from '@tally/db';
import type { Counters } from './counters/counters.ts';
import { LIVE_DAYS } from './counters/keys.ts';
import { type Pending, sumOf } from './pending.ts';

/**
 * Returns the running totals of a merchant's day: from Redis if they are complete; else from Postgres plus pending
 * events. They may miss acknowledged events only if `complete` is false: a store was unavailable, or too much is
 * pending. Without `metricTypes`, returns all known types.
 */
export type RunningTotals = (
  merchantId: string,
  date: Day,
  metricTypes?: readonly string[],
) => Promise<{ totals: ReadonlyMap<string, Units>; complete: boolean }>;

/** Pending lines read for one answer; if there are more, they are flushed first. */
const MAX_LINES = 10_000;

export function createRunningTotals(options: {
  counters: Counters;
  pending: Pending;
  db: Pick<Db, 'usage' | 'storedForms'>;
  /** Flushes pending events of these merchants, for a bounded time. Never throws. */
  flushSoon(merchantIds: readonly string[]): Promise<unknown>;
  /** Returns true if events of the merchant lately went directly to Postgres, so that its totals may be too low. */
  mayBeBehind(merchantId: string): boolean;
  now: () => number;
}): RunningTotals {
  const { counters, pending, db, now } = options;

  async function stored(merchantId: string, date: Day, metricTypes: readonly string[] | undefined) {
    const rows = await db.usage.merchantUsage({
      merchantIds: [merchantId],
      startDate: date,
      endDate: date,
      metricTypes,
    });
    return new Map(rows.map((row): [string, Units] => [row.metric_type, row.metric_value]));
  }

  /** The stream first: events flushed meanwhile are then recognised by their row, and the sums include them. */
  async function storedAndWaiting(merchantId: string, date: Day, metricTypes: readonly string[] | undefined) {
    const shard = counters.keys.shardOf(merchantId);
    let read = await pending.lines(shard, [merchantId], MAX_LINES);
    if (!read.all) {
      await options.flushSoon([merchantId]);
      read = await pending.lines(shard, [merchantId], MAX_LINES);
    }
    const { sums, notCounted } = await db.storedForms.day(
      merchantId,
      date,
      read.lines.filter((line) => line.date === date),
    );
    const totals = new Map([...sums].filter(([type]) => !metricTypes || metricTypes.includes(type)));
    for (const [type, units] of sumOf(notCounted)) {
      if (metricTypes && !metricTypes.includes(type)) continue;
      totals.set(type, (totals.get(type) ?? 0n) + units);
    }
    return { totals, complete: read.all };
  }

  return async (merchantId, date, metricTypes) => {
    const inPostgres = async () => stored(merchantId, date, metricTypes);
    if (date < addDays(dayOf(now()), -LIVE_DAYS)) return { totals: await inPostgres(), complete: true };
    const shard = counters.keys.shardOf(merchantId);
    const inRedis = await counters
      .readDays(shard, [{ merchantId, date, metricTypes: metricTypes ?? [] }])
      .catch(() => undefined);
    // Pending events are missing from the sums of Postgres.
    if (!inRedis) return { totals: await inPostgres(), complete: false };
    const { trusted, totals } = inRedis.days[0]!;
    if (trusted && !options.mayBeBehind(merchantId)) return { totals, complete: true };
    return storedAndWaiting(merchantId, date, metricTypes).catch(() => ({ totals, complete: false }));
  };
}
