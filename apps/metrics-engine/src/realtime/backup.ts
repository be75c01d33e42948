import type { RealtimeType } from '@tally/contracts';
import type { Db, SavedMetric } from '@tally/db';
import type { RedisClient } from '@tally/service';
import type { Result } from 'ioredis';
import { markerKey, namesKey, OWNERS, seriesKey, valueKey } from './keys.ts';
import { type Meta, slicesKept } from './realtime.ts';
import { script } from './scripts.ts';

export type BackupOptions = { db: Pick<Db, 'realtime'>; redis: RedisClient; ttlSeconds: number; now: () => number };

export type Backup = {
  /** Restores what Redis lost, for every merchant, then saves changes since the last copy. */
  run(): Promise<{ restored: number; saved: number }>;
  /**
   * Restores a merchant's metrics if Redis lost them or returned with older ones: values older than their copy are
   * replaced. Until then no point of the merchant is accepted, so a loss costs only what came after the last copy.
   */
  restore(merchantId: string | null): Promise<number>;
  /** Restores values that Redis lacks although their copies have not expired. Returns their number. */
  missing(merchantId: string | null): Promise<number>;
  /** Returns merchants with realtime metrics here or copies of them; null is the platform. */
  merchants(): Promise<(string | null)[]>;
};

declare module 'ioredis' {
  interface RedisCommander<Context> {
    realtimeRestore(numberOfKeys: number, ...keysAndArgs: string[]): Result<number, Context>;
    realtimeEpoch(...keysAndArgs: string[]): Result<[run: string, epoch: string, saved: string] | [], Context>;
  }
}

const WITHOUT_WINDOW = -1;
/** Copies restored by one call. */
const PIECE = 500;
/** Series are saved again for this long after their last point: the clocks of two engines may differ. */
const CLOCKS_DIFFER_MS = 60_000;
/** A copy that is about to expire may have expired in Redis a moment before. */
const EXPIRING_MS = 2_000;

/** Saves realtime metrics to `realtime_metrics_cache` and restores them. */
export function createBackup({ db: { realtime: store }, redis, ttlSeconds, now }: BackupOptions): Backup {
  redis.defineCommand('realtimeRestore', { lua: script('realtime-restore') });
  redis.defineCommand('realtimeEpoch', { numberOfKeys: 1, lua: script('realtime-epoch') });

  /** Seconds of inactivity after which all realtime data of a merchant has expired. */
  const keptSeconds = Math.max(ttlSeconds, 2 * 86_400);

  /** Merchants being restored: concurrent callers wait for the same run. */
  const restoring = new Map<string | null, Promise<number>>();

  async function bringBack(merchantId: string | null): Promise<number> {
    if ((await redis.realtimeEpoch(markerKey(merchantId), '', '0', '')).length > 0) return 0;
    // Before points are accepted: the first point may have registered the merchant together with the lost values.
    await redis.zadd(OWNERS, now(), merchantId ?? '');
    let restored = 0;
    let after: SavedMetric | undefined;
    for (;;) {
      const saved = await store.saved(merchantId ?? '', { now: now(), after, limit: PIECE });
      const last = saved.length < PIECE;
      const keys = [markerKey(merchantId), namesKey(merchantId)];
      const args = [last ? 'last' : 'more', String(keptSeconds)];
      for (const { name, labels, slice, type, meta, value, epoch, expiresAt } of saved) {
        keys.push(seriesKey(merchantId, name), keyOf(merchantId, name, labels, slice));
        const left = String(Math.max(1, expiresAt - now()));
        args.push(name, type, labels, JSON.stringify(meta), epoch, left, JSON.stringify(value));
      }
      const came = await redis.realtimeRestore(keys.length, ...keys, ...args);
      if (came < 0) return restored;
      restored += came;
      if (last) return restored;
      after = saved.at(-1);
    }
  }

  function restore(merchantId: string | null): Promise<number> {
    const known = restoring.get(merchantId);
    if (known) return known;
    const coming = bringBack(merchantId).finally(() => restoring.delete(merchantId));
    restoring.set(merchantId, coming);
    return coming;
  }

  async function save(merchantId: string | null): Promise<number> {
    const marker = markerKey(merchantId);
    const began = now();
    const [run, , before] = await redis.realtimeEpoch(marker, '', '0', '');
    if (run === undefined) return 0;
    const since = before ? Number(before) - CLOCKS_DIFFER_MS : 0;
    let saved = 0;
    const names = Object.entries(await redis.hgetall(namesKey(merchantId)));
    for (const [name, type] of names) {
      const series = Object.entries(await redis.hgetall(seriesKey(merchantId, name)));
      const changed = series
        .map(([labels, text]) => ({ labels, meta: JSON.parse(text) as Meta }))
        .filter(({ meta }) => meta.at >= since);
      for (let from = 0; from < changed.length; from += PIECE) {
        const found = await Promise.all(
          changed.slice(from, from + PIECE).map((each) => valuesOf(merchantId, name, each)),
        );
        // Values read are newer than every copy only while Redis is the one they were read from.
        const [, epoch] = await redis.realtimeEpoch(marker, run, '1', '');
        if (epoch === undefined) return saved;
        const metrics = found.flat().filter(({ value }) => Object.keys(value).length > 0);
        await store.save(
          metrics.map((each) => ({ ...each, merchantId: merchantId ?? '', name, type: type as RealtimeType, epoch })),
        );
        saved += metrics.length;
      }
    }
    await redis.realtimeEpoch(marker, run, '0', String(began));
    return saved;
  }

  async function valuesOf(merchantId: string | null, name: string, { labels, meta }: { labels: string; meta: Meta }) {
    const slices = meta.window === undefined ? [WITHOUT_WINDOW] : slicesKept(meta.window, now());
    return Promise.all(
      slices.map(async (slice) => {
        const key = keyOf(merchantId, name, labels, slice);
        const [value, left] = await Promise.all([redis.hgetall(key), redis.pttl(key)]);
        return { labels, meta: { ...meta }, slice, value, expiresAt: now() + left };
      }),
    );
  }

  async function merchants(): Promise<(string | null)[]> {
    const owners = new Set([...(await store.merchants()), ...(await redis.zrange(OWNERS, '0', '-1'))]);
    return [...owners].map((owner) => (owner === '' ? null : owner));
  }

  return {
    restore,
    merchants,

    async run() {
      let [restored, saved] = [0, 0];
      await redis.zremrangebyscore(OWNERS, '-inf', String(now() - keptSeconds * 1000 - CLOCKS_DIFFER_MS));
      for (const merchantId of await merchants()) {
        restored += await restore(merchantId);
        saved += await save(merchantId);
      }
      return { restored, saved };
    },

    async missing(merchantId) {
      let missing = 0;
      let after: SavedMetric | undefined;
      for (;;) {
        const saved = await store.saved(merchantId ?? '', { now: now() + EXPIRING_MS, after, limit: PIECE });
        const there = await Promise.all(
          saved.map(({ name, labels, slice }) => redis.exists(keyOf(merchantId, name, labels, slice))),
        );
        missing += there.filter((exists) => exists === 0).length;
        if (saved.length < PIECE) break;
        after = saved.at(-1);
      }
      if (missing > 0) {
        await redis.hdel(markerKey(merchantId), 'run');
        await restore(merchantId);
      }
      return missing;
    },
  };
}

const keyOf = (merchantId: string | null, name: string, labels: string, slice: number): string =>
  valueKey(merchantId, name, labels, slice === WITHOUT_WINDOW ? undefined : slice);
