import { setTimeout as wait } from 'node:timers/promises';
import {
  addDays,
  type Day,
  dayOf,
  eachDay,
  type FlushResult,
  formatQuantity,
  messageOf,
  TallyError,
} from '@tally/contracts';
import type { Db } from '@tally/db';
import { coalesce } from '@tally/service';
import type { Counters, LiveTotal } from '../counters/counters.ts';
import { LIVE_DAYS } from '../counters/keys.ts';
import type { OldLayout } from '../counters/old-layout.ts';
import type { Drain, DrainReport } from './drain.ts';

export type FlushOptions = {
  counters: Counters;
  oldLayout: Pick<OldLayout, 'drain' | 'merchants'>;
  db: Pick<Db, 'usage' | 'metricTypes'>;
  drain: Drain;
  now: () => number;
};

export type Flush = {
  /** Drains all merchants; callers share runs (see coalesce). */
  drainAll(): Promise<DrainReport>;
  drainMerchants(merchantIds: readonly string[]): Promise<DrainReport>;
  /**
   * Drains these merchants, or all, for a reader of Postgres. Answers after 2 s without the rest while the flush is
   * behind; the flush continues. `asOf` is then the time of the oldest pending event.
   */
  beforeRead(merchantIds?: readonly string[]): Promise<{ inserted: number; complete: boolean; asOf: number }>;
  /**
   * Flushes the shards of these merchants, without listing all shards, and waits for at most 2 s; a longer flush
   * continues in the background. Returns true if everything pending was flushed. Never throws.
   */
  flushSoon(merchantIds?: readonly string[]): Promise<boolean>;
  /**
   * Runs the documented job: drains, then compares each total of the date with `merchant_usage`. Default: yesterday.
   * For one merchant, throws UNAVAILABLE if events still wait after 10 s; the flush continues.
   */
  run(scope: { date?: Day | undefined; merchantId?: string | undefined }): Promise<FlushResult>;
  /** `run` for every day of a range. */
  range(startDate: Day, endDate: Day): Promise<(FlushResult & { date: Day })[]>;
  status(date?: Day): Promise<FlushStatus>;
  /** Returns the age of the oldest pending event, in milliseconds; 0 without one. */
  lagMs(): Promise<number>;
  /** Returns true while the oldest pending event is older than 10 s. */
  isBehind(): Promise<boolean>;
};

/** How long readers wait for a flush. */
const SOON_MS = 2_000;
/** While the oldest pending event is older, the flush is behind: waiting for it takes long, and so does comparing. */
const BEHIND_MS = 10_000;
/** How long a caller who flushes one merchant waits. */
const MERCHANT_MS = 10_000;

export type FlushStatus = {
  date: Day;
  aggregated: boolean;
  pendingKeys: number | null;
  recordCount: number;
  lastFlushAt: string | null;
  lagMs: number | null;
};

/** The flush as operators, jobs and readers call it. */
export function createFlush({ counters, oldLayout, db, drain, now }: FlushOptions): Flush {
  const drainAll = coalesce(async () => {
    const [old, report] = await Promise.all([oldLayout.drain(), drain.drain({ wait: true })]);
    return both(old, report);
  });
  const drainMerchants = async (merchantIds: readonly string[]) => {
    const shards = [...new Set(merchantIds.map((merchantId) => counters.keys.shardOf(merchantId)))];
    const drainOld = async () => {
      const old = await oldLayout.merchants();
      const isOld = merchantIds.some((merchantId) => old.includes(merchantId));
      return isOld ? oldLayout.drain() : { inserted: 0, errors: [] };
    };
    const [old, report] = await Promise.all([drainOld(), drain.drain({ shards, wait: true })]);
    return both(old, report);
  };

  /** Readers of one shard share its flushes. */
  const ofShard: (() => Promise<DrainReport>)[] = [];
  const flushShards = (merchantIds: readonly string[]) =>
    [...new Map(merchantIds.map((merchantId) => [counters.keys.shardOf(merchantId), merchantId]))].map(
      ([shard, merchantId]) => {
        ofShard[shard] ??= coalesce(() => drainMerchants([merchantId]));
        return ofShard[shard]();
      },
    );
  const flushSoon: Flush['flushSoon'] = async (merchantIds) => {
    const flushed = Promise.all(merchantIds ? flushShards(merchantIds) : [drainAll()]).then(
      (reports) => reports.every(({ errors }) => errors.length === 0),
      () => false,
    );
    return (await within(SOON_MS, flushed)) ?? false;
  };

  async function compare(date: Day, page: readonly LiveTotal[]): Promise<FlushResult['disagreeing']> {
    const merchantIds = [...new Set(page.map((total) => total.merchantId))];
    const rows = await db.usage.merchantUsage({ merchantIds, startDate: date, endDate: date });
    const counted = new Map(rows.map((row) => [`${row.merchant_id}\n${row.metric_type}`, row.metric_value]));
    const scaleOf = await db.metricTypes.scales(page.map(({ metricType }) => metricType));
    return page.flatMap(({ merchantId, metricType, units }) => {
      const value = counted.get(`${merchantId}\n${metricType}`) ?? 0n;
      if (value === units) return [];
      const [live, merchantUsage] = [units, value].map((each) => formatQuantity(metricType, each, scaleOf)) as [
        string,
        string,
      ];
      return [{ merchantId, date, metricType, live, merchantUsage }];
    });
  }

  /** Differences that a second check, after another drain, does not find were only concurrent traffic. */
  async function settled(date: Day, found: FlushResult['disagreeing']): Promise<FlushResult['disagreeing']> {
    if (found.length === 0) return [];
    const merchantIds = [...new Set(found.map((each) => each.merchantId))];
    await drainMerchants(merchantIds);
    const still: FlushResult['disagreeing'] = [];
    for (const { merchantId, metricType } of found) {
      const read = await counters.readDays(counters.keys.shardOf(merchantId), [{ merchantId, date, metricTypes: [] }]);
      const units = read.days[0]!.totals.get(metricType);
      if (units !== undefined) still.push(...(await compare(date, [{ merchantId, date, metricType, units }])));
    }
    return still;
  }

  const run: Flush['run'] = async ({ date = addDays(dayOf(now()), -1), merchantId }) => {
    const started = performance.now();
    const drained =
      merchantId === undefined ? await drainAll() : await within(MERCHANT_MS, drainMerchants([merchantId]));
    if (!drained)
      throw new TallyError(
        'UNAVAILABLE',
        `Events of the shard of merchant ${merchantId} still wait after ${MERCHANT_MS / 1000} s. The flush goes on; call again.`,
      );
    const errors = [...drained.errors];
    let keysProcessed = 0;
    const disagreeing: FlushResult['disagreeing'] = [];
    // Totals of older days are expired or expiring, and no longer updated with late events.
    if (date >= addDays(dayOf(now()), -LIVE_DAYS)) {
      for await (const page of counters.scanTotals(date, merchantId)) {
        keysProcessed += page.length;
        try {
          disagreeing.push(...(await settled(date, await compare(date, page))));
        } catch (error) {
          const key = counters.keys.total(page[0]!.merchantId, date).prefix;
          errors.push({ key, message: messageOf(error) });
        }
      }
    }
    const durationMs = Math.round(performance.now() - started);
    return {
      success: errors.length === 0,
      keysProcessed,
      recordsAggregated: drained.inserted,
      errors,
      durationMs,
      disagreeing,
    };
  };

  const allShards = () => Array.from({ length: counters.keys.shards }, (_, shard) => shard);
  /** When the oldest pending event of some shards was recorded, and how long ago, by the clock of Redis. */
  const oldestOf = async (shards: readonly number[]) => {
    const [ids, time] = await Promise.all([counters.oldestItemIds(shards), counters.time()]);
    const at = Math.min(...ids.filter((id) => id !== null).map((id) => Number(id.split('-')[0])));
    return { at, ageMs: at === Number.POSITIVE_INFINITY ? 0 : Math.max(time - at, 1) };
  };
  const lagMs = async () => (await oldestOf(allShards())).ageMs;
  const beforeRead: Flush['beforeRead'] = async (merchantIds) => {
    const drained = merchantIds ? drainMerchants(merchantIds) : drainAll();
    const shards = merchantIds?.map((merchantId) => counters.keys.shardOf(merchantId)) ?? allShards();
    let report = await within(SOON_MS, drained);
    if (!report && (await oldestOf(shards)).ageMs <= BEHIND_MS) report = await drained;
    if (report?.errors.length === 0) return { inserted: report.inserted, complete: true, asOf: report.asOf };
    return { inserted: report?.inserted ?? 0, complete: false, asOf: Math.min((await oldestOf(shards)).at, now()) };
  };
  /** Merchants with pending events, including those of the previous release. */
  const waiting = async () => new Set([...(await counters.waitingMerchants()), ...(await oldLayout.merchants())]);

  return {
    drainAll,
    drainMerchants,
    beforeRead,
    flushSoon,
    run,
    lagMs,
    isBehind: async () => (await lagMs()) > BEHIND_MS,

    async range(startDate, endDate) {
      const results: (FlushResult & { date: Day })[] = [];
      for (const date of eachDay(startDate, endDate)) results.push({ date, ...(await run({ date })) });
      return results;
    },

    async status(date = dayOf(now())) {
      const [merchants, lag, recordCount, lastFlushAt] = await Promise.all([
        waiting().catch(() => null),
        lagMs().catch(() => null),
        db.usage.countMerchantUsage(date),
        db.usage.lastFlushAt(),
      ]);
      return {
        date,
        aggregated: merchants?.size === 0 && recordCount > 0,
        pendingKeys: merchants?.size ?? null,
        recordCount,
        lastFlushAt,
        lagMs: lag,
      };
    },
  };
}

/** Returns the result of `work`; undefined if it takes longer than `ms`, and then its outcome is ignored. */
async function within<T>(ms: number, work: Promise<T>): Promise<T | undefined> {
  const deadline = new AbortController();
  const late = wait(ms, undefined, { signal: deadline.signal, ref: false });
  work.catch(() => {});
  try {
    return await Promise.race([work, late]);
  } finally {
    deadline.abort();
    late.catch(() => {});
  }
}

function both(old: Awaited<ReturnType<OldLayout['drain']>>, report: DrainReport): DrainReport {
  return { ...report, inserted: report.inserted + old.inserted, errors: [...old.errors, ...report.errors] };
}

/** The longest range of one request. */
export const MAX_RANGE_DAYS = 366;
