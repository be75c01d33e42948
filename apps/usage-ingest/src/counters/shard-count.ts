import type { ShardsStore } from '@tally/db';
import type { RedisClient } from '@tally/service';
import { SHARD_COUNT_KEY } from './keys.ts';

/**
 * The number of shards, which both stores keep. Where they disagree, ingest goes on with that of Redis, whose streams it
 * writes; `problem` says why nothing may be flushed.
 */
export async function agreeOnShards(
  redis: RedisClient,
  store: Pick<ShardsStore, 'count'>,
  wanted: number,
): Promise<{ count: number; problem?: string }> {
  const inPostgres = await store.count(wanted);
  await redis.set(SHARD_COUNT_KEY, inPostgres, 'NX');
  const count = Number(await redis.get(SHARD_COUNT_KEY));
  if (count === inPostgres) return { count };
  const problem =
    `Redis has ${count} shards (${SHARD_COUNT_KEY}) and Postgres ${inPostgres} (usage_shards): ` +
    'they belong to different installations, so nothing is flushed. Connect the stores that belong together.';
  return { count, problem };
}
