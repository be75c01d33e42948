import type { ShardsStore } from '@tally/db';
import type { RedisClient } from '@tally/service';
import { type RedisKeys, SHARD_COUNT_KEY } from './keys.ts';

export type ShardCount = {
  /** Reads the number of shards from both stores, until both have answered. Never throws. */
  agree(): Promise<void>;
  /** Returns true if this Redis is known to have as many shards as its keys are built for. */
  isKnown(): boolean;
  /** Returns why nothing may be flushed; undefined once both stores have the same number. */
  problem(): string | undefined;
};

/**
 * The number of shards, which both stores keep; the first call that reaches Postgres fixes it. Either store is enough
 * to accept events. If the stores disagree, ingest uses the number of Redis, whose streams it writes.
 */
export function createShardCount(options: {
  redis: RedisClient;
  store: Pick<ShardsStore, 'count'>;
  keys: RedisKeys;
  wanted: number;
  /** Called if the stores disagree. */
  onProblem(problem: string): void;
}): ShardCount {
  const { redis, store, keys, wanted } = options;
  let [known, agreed] = [false, false];
  let problem: string | undefined = 'The shards of Redis and Postgres are not compared yet: a store is unavailable.';

  const inRedis = async () => {
    const count = await redis.get(SHARD_COUNT_KEY);
    return count === null ? undefined : Number(count);
  };

  function use(count: number): void {
    keys.adopt(count);
    known = true;
  }

  return {
    isKnown: () => known,
    problem: () => problem,
    async agree() {
      if (agreed) return;
      try {
        const before = await inRedis().catch(() => undefined);
        if (before !== undefined) use(before);
        const inPostgres = await store.count(wanted);
        // A Redis that is full refuses this, and needs a flush most.
        if (before === undefined) await redis.set(SHARD_COUNT_KEY, inPostgres, 'NX');
        const count = (await inRedis()) ?? inPostgres;
        use(count);
        agreed = true;
        problem = undefined;
        if (count === inPostgres) return;
        problem =
          `Redis has ${count} shards (${SHARD_COUNT_KEY}) and Postgres ${inPostgres} (usage_shards): ` +
          'they belong to different installations, so nothing is flushed. Connect the stores that belong together.';
        options.onProblem(problem);
      } catch {
        // A store is unavailable: the next call tries again.
      }
    },
  };
}
