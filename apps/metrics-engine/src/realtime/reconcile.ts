import { type Day, dayOf, formatCost, isDay } from '@tally/contracts';
import type { Db } from '@tally/db';
import type { RedisClient } from '@tally/service';
import type { Result } from 'ioredis';
import type { Backup } from './backup.ts';
import { namesKey, seriesKey, valueKey } from './keys.ts';
import type { Realtime } from './realtime.ts';
import { script } from './scripts.ts';

export type ReconcileOptions = {
  redis: RedisClient;
  db: Pick<Db, 'usage'>;
  backup: Backup;
  realtime: Pick<Realtime, 'forget'>;
  /** Flushes what was acknowledged so far to Postgres; returns false on failure. */
  drain(): Promise<boolean>;
  now: () => number;
};

/** A counter that mirrors counted usage, with a wrong value. */
export type Corrected = { merchantId: string | null; name: string; date: Day; was: string; is: string };

export type Reconciled = {
  merchants: number;
  /** Values restored from their copies: Redis had lost them, or had older ones. */
  restored: number;
  corrected: Corrected[];
  /** False if usage-ingest could not flush everything, so mirrors were not compared. */
  usageCompared: boolean;
  /** Removed series: they had no point for their time to live. */
  forgotten: number;
};

/** Counters `usage.<metric type>` with the only label `date` mirror `merchant_usage`. */
const MIRROR = 'usage.';
/** Metric types that are sums of stored ones. */
const DERIVED: Readonly<Record<string, readonly string[]>> = { total_tokens: ['prompt_tokens', 'completion_tokens'] };
const NANO = 1_000_000_000n;

/**
 * Compares realtime metrics with their sources, and corrects them: every value with its copy, and counters that mirror
 * counted usage with `merchant_usage`. Mirrors of a day are compared when the day is over.
 */
export function createReconcile({ redis, db, backup, realtime, drain, now }: ReconcileOptions) {
  redis.defineCommand('realtimeCorrect', { numberOfKeys: 1, lua: script('realtime-correct') });

  async function mirrorsOf(merchantId: string | null): Promise<{ name: string; labels: string; date: Day }[]> {
    const names = (await redis.hkeys(namesKey(merchantId))).filter((name) => name.startsWith(MIRROR));
    const mirrors: { name: string; labels: string; date: Day }[] = [];
    for (const name of names) {
      for (const labels of await redis.hkeys(seriesKey(merchantId, name))) {
        const [label, ...more] = JSON.parse(labels) as [string, string][];
        const date = label?.[0] === 'date' && more.length === 0 ? label[1] : '';
        if (isDay(date) && date < dayOf(now())) mirrors.push({ name, labels, date });
      }
    }
    return mirrors;
  }

  async function correct(merchantId: string | null): Promise<Corrected[]> {
    const corrected: Corrected[] = [];
    for (const { name, labels, date } of await mirrorsOf(merchantId)) {
      const type = name.slice(MIRROR.length);
      const rows = await db.usage.merchantUsage({
        ...(merchantId !== null && { merchantIds: [merchantId] }),
        startDate: date,
        endDate: date,
        metricTypes: DERIVED[type] ?? [type],
      });
      // Missing in the store means unknown, not 0: the mirror may be of another metric type, or of a source outside of
      // Tally.
      if (rows.length === 0) continue;
      const sum = rows.reduce((total, row) => total + row.metric_value, 0n);
      const right = type === 'cost' ? sum : sum * NANO;
      const key = valueKey(merchantId, name, labels);
      const [i, n] = await redis.hmget(key, 'i', 'n');
      if (i === null || i === undefined) continue;
      const was = BigInt(i) * NANO + BigInt(n ?? 0);
      if (was === right) continue;
      const set = await redis.realtimeCorrect(key, i, n ?? '', String(right / NANO), String(right % NANO));
      if (set === 1) corrected.push({ merchantId, name, date, was: formatCost(was), is: formatCost(right) });
    }
    return corrected;
  }

  return async (): Promise<Reconciled> => {
    const { restored } = await backup.run();
    const usageCompared = await drain();
    const outcome: Reconciled = { merchants: 0, restored, corrected: [], usageCompared, forgotten: 0 };
    for (const merchantId of await backup.merchants()) {
      outcome.merchants++;
      outcome.restored += await backup.missing(merchantId);
      if (usageCompared) outcome.corrected.push(...(await correct(merchantId)));
      outcome.forgotten += (await realtime.forget(merchantId)).series;
    }
    return outcome;
  };
}

declare module 'ioredis' {
  interface RedisCommander<Context> {
    realtimeCorrect(...keysAndArgs: string[]): Result<number, Context>;
  }
}
