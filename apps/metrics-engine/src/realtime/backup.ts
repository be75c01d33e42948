import { readFileSync } from 'node:fs';
import type { RealtimeType } from '@tally/contracts';
import type { Db } from '@tally/db';
import type { RedisClient } from '@tally/service';
import type { Result } from 'ioredis';
import { MERCHANTS, markerKey, namesKey, seriesKey, valueKey } from './keys.ts';
import { type Meta, slicesKept } from './realtime.ts';

export type BackupOptions = { db: Pick<Db, 'realtime'>; redis: RedisClient; ttlSeconds: number; now: () => number };

export type Backup = {
  /**
   * Brings back what Redis lost, then saves what it has. A loss of Redis costs what was counted since the last save;
   * what is counted after it is added to what comes back.
   */
  run(): Promise<{ restored: number; saved: number }>;
};

declare module 'ioredis' {
  interface RedisCommander<Context> {
    realtimeRestore(numberOfKeys: number, ...keysAndArgs: string[]): Result<number, Context>;
  }
}

const WITHOUT_WINDOW = -1;

/** Saves realtime metrics to `realtime_metrics_cache` and brings them back. */
export function createBackup({ db: { realtime: store }, redis, ttlSeconds, now }: BackupOptions): Backup {
  redis.defineCommand('realtimeRestore', {
    lua: readFileSync(new URL('../../lua/realtime-restore.lua', import.meta.url), 'utf8'),
  });

  async function restore(owner: string): Promise<number> {
    const merchantId = owner === '' ? null : owner;
    if ((await redis.exists(markerKey(merchantId))) === 1) return 0;
    const saved = await store.saved(owner, now());
    const keys = [markerKey(merchantId), namesKey(merchantId)];
    const args = [String(ttlSeconds)];
    for (const { name, labels, slice, type, meta, value, expiresAt } of saved) {
      keys.push(
        seriesKey(merchantId, name),
        valueKey(merchantId, name, labels, slice === WITHOUT_WINDOW ? undefined : slice),
      );
      args.push(
        name,
        type,
        labels,
        JSON.stringify(meta),
        String(Math.max(1, expiresAt - now())),
        JSON.stringify(value),
      );
    }
    return Math.max(0, await redis.realtimeRestore(keys.length, ...keys, ...args));
  }

  async function save(owner: string): Promise<number> {
    const merchantId = owner === '' ? null : owner;
    let saved = 0;
    for (const [name, type] of Object.entries(await redis.hgetall(namesKey(merchantId)))) {
      for (const [labels, text] of Object.entries(await redis.hgetall(seriesKey(merchantId, name)))) {
        const meta = JSON.parse(text) as Meta;
        const slices = meta.window === undefined ? [undefined] : slicesKept(meta.window, now());
        const found = await Promise.all(
          slices.map(async (slice) => {
            const key = valueKey(merchantId, name, labels, slice);
            const [value, left] = await Promise.all([redis.hgetall(key), redis.pttl(key)]);
            return { slice: slice ?? WITHOUT_WINDOW, value, expiresAt: now() + left };
          }),
        );
        // What is read after a loss is too little: it may not take the place of what was saved before.
        if ((await redis.exists(markerKey(merchantId))) === 0) return saved;
        const metrics = found.filter(({ value }) => Object.keys(value).length > 0);
        await store.save(
          metrics.map((each) => ({ ...each, merchantId: owner, name, labels, type: type as RealtimeType, meta })),
        );
        saved += metrics.length;
      }
    }
    return saved;
  }

  return {
    async run() {
      const owners = new Set([...(await store.merchants()), ...(await redis.smembers(MERCHANTS))]);
      let [restored, saved] = [0, 0];
      for (const owner of owners) {
        restored += await restore(owner);
        saved += await save(owner);
      }
      return { restored, saved };
    },
  };
}
