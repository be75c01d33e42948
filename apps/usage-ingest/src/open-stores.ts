import { setTimeout as wait } from 'node:timers/promises';
import { type Db, openDb } from '@tally/db';
import {
  createReadiness,
  createRedis,
  failureLog,
  type Log,
  type Readiness,
  type RedisClient,
  type Releasers,
  redisReady,
  startLoop,
} from '@tally/service';
import { createRedisKeys, type RedisKeys } from './counters/keys.ts';
import { createShardCount, type ShardCount } from './counters/shard-count.ts';
import { createDirectWrites, type DirectWrites } from './direct-writes.ts';
import { type Durability, durabilityOf } from './durability.ts';
import type { Env } from './env.ts';
import type { IngestMetrics } from './metrics.ts';
import { type Stores, watchStores } from './stores.ts';

export type OpenStores = {
  db: Db;
  redis: RedisClient;
  keys: RedisKeys;
  shards: ShardCount;
  stores: Stores;
  directWrites: DirectWrites;
  readiness: Readiness;
};

/** A starting service waits this long for each store, then continues without it. */
const START_WAIT_MS = 2_000;
/** The interval at which the number of shards is read until both stores have answered. */
const AGREE_MS = 500;

/**
 * Opens both stores, watches them, and lets them agree on the number of shards. Goes on without a store that does not
 * answer in time. Throws if Postgres may lose commits. Pushes everything opened to `releasers`.
 */
export async function openStores(
  env: Env,
  options: { log: Log; releasers: Releasers; metrics: IngestMetrics; isFlusher: boolean; now: () => number },
): Promise<OpenStores> {
  const { log, releasers, metrics, isFlusher, now } = options;
  const db = await openDb(env.DATABASE_URL, {
    applicationName: 'usage-ingest',
    poolSize: env.POSTGRES_POOL_SIZE,
    dimensionValuesPerDay: env.MAX_DIMENSION_VALUES_PER_DAY,
    onUnavailable: failureLog(log, 'starting without Postgres', { level: 'warn' }),
  });
  releasers.push('postgres', () => db.close());
  const redis = createRedis(env.REDIS_URL, failureLog(log, 'the connection to Redis failed', { level: 'warn' }));
  releasers.push('redis', () => redis.disconnect());
  await redisReady(redis, START_WAIT_MS).catch((error: unknown) => log.warn({ err: error }, 'starting without Redis'));
  let durability: Durability = { level: 'unknown', notes: ['Redis has not answered yet.'] };
  const readDurability = async () => {
    durability = await durabilityOf(redis);
    metrics.durability(durability);
    log.info({ durability }, 'durability');
  };
  const keys = createRedisKeys({ shards: env.USAGE_SHARDS, clustered: 'nodes' in redis, now });
  const shards = createShardCount({
    redis,
    store: db.shards,
    keys,
    wanted: env.USAGE_SHARDS,
    onProblem: (problem) => log.error(problem),
  });
  const directWrites = createDirectWrites(() => performance.now());
  const stores = watchStores({
    db,
    redis,
    highMark: env.REDIS_MEMORY_HIGH_MARK,
    isShardCountKnown: shards.isKnown,
    onChange(store, reason) {
      metrics.inUse(store, reason === undefined);
      log.warn({ store, err: reason }, reason ? 'a store is not used' : 'a store is used again');
      if (store === 'redis' && !reason) void readDurability().catch(() => {});
    },
    onRefusedWrites: directWrites.redisRefusesWrites,
  });
  releasers.push('stores', () => stores.stop());
  const readiness = createReadiness({
    postgres: db,
    redis,
    memoryMark: env.REDIS_MEMORY_HIGH_MARK,
    isUsed: (store) => !stores[store].isOpen(),
    // Either store is enough to accept usage; without both nothing can be promised. A flush needs both.
    isOk: (stores, writable) => (isFlusher ? stores.postgres && stores.redis : writable.postgres || writable.redis),
    facts: () => ({ durability }),
    log,
    now,
  });
  await Promise.race([shards.agree(), wait(START_WAIT_MS, undefined, { ref: false })]);
  const agreeing = startLoop(AGREE_MS, shards.agree, () => {});
  releasers.push('shard count', () => agreeing.stop());
  const problems = await db.durabilityProblems().catch(() => []);
  if (problems.length > 0) throw new Error(problems.join('; '));
  await Promise.all([stores.postgres.look(), stores.redis.look()]);
  if (redis.status === 'ready') await readDurability().catch(() => {});
  return { db, redis, keys, shards, stores, directWrites, readiness };
}
