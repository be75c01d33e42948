import type { Db } from '@tally/db';
import { type Breaker, createBreaker, mastersOf, type RedisClient, StoreUnusableError } from '@tally/service';

export type Stores = {
  postgres: Breaker;
  redis: Breaker;
  /** Returns true if Redis uses more of its memory than the high-water mark allows. False while it does not answer. */
  isRedisFull(): boolean;
  stop(): void;
};

export type StoresOptions = {
  db: Pick<Db, 'ping' | 'durabilityProblems'>;
  redis: RedisClient;
  /** Share of `maxmemory` above which events are written directly to Postgres. */
  highMark: number;
  /** Returns true if the number of shards of this Redis is known. */
  isShardCountKnown(): boolean;
  onChange(store: 'postgres' | 'redis', reason: Error | undefined): void;
  /** Called every second while Redis answers and refuses writes. */
  onRefusedWrites(): void;
};

const LOOK_MS = 1_000;

/**
 * Decides which stores take events. Leaves out a store that hangs, a Redis that evicts keys and a Postgres that may
 * lose commits, until they are fine again.
 */
export function watchStores({
  db,
  redis,
  highMark,
  isShardCountKnown,
  onChange,
  onRefusedWrites,
}: StoresOptions): Stores {
  let [full, looking, isDurable] = [false, false, false];

  const postgres = createBreaker({
    name: 'Postgres',
    async probe() {
      await db.ping();
      if (isDurable) return;
      const problems = await db.durabilityProblems();
      if (problems.length > 0) throw new Error(problems.join('; '));
      isDurable = true;
    },
    onChange: (reason) => onChange('postgres', reason),
  });

  /** Returns the setting of Redis that forbids its use. */
  async function lookAtRedis(): Promise<string | undefined> {
    const facts = await Promise.all(mastersOf(redis).map((node) => node.info()));
    full = facts.some((info) => isAbove(info, highMark));
    if (facts.some(refusesWrites)) onRefusedWrites();
    return facts.some(evicts) ? 'it evicts keys: set maxmemory-policy noeviction' : undefined;
  }

  const breaker = createBreaker({
    name: 'Redis',
    async probe() {
      if (redis.status !== 'ready') throw new Error('it is not connected');
      if (!isShardCountKnown()) throw new Error('its number of shards is not known');
      const problem = await lookAtRedis();
      if (problem) throw new Error(problem);
    },
    onChange: (reason) => onChange('redis', reason),
  });
  // A returning Redis may be another one, or have other settings: check it before use.
  const disconnected = () => {
    full = false;
    breaker.open(new StoreUnusableError('Redis is not connected.'));
  };
  redis.on('close', disconnected);

  const timer = setInterval(async () => {
    if (looking) return;
    looking = true;
    // Any user of Redis notices that it does not answer.
    const problem = await lookAtRedis().catch(() => undefined);
    if (problem) breaker.open(new StoreUnusableError(`Redis is not used: ${problem}`));
    looking = false;
  }, LOOK_MS);

  return {
    postgres,
    redis: breaker,
    isRedisFull: () => full,
    stop() {
      clearInterval(timer);
      redis.off('close', disconnected);
      postgres.stop();
      breaker.stop();
    },
  };
}

/** Redis then answers reads, so only those who write notice: OOM, READONLY, MISCONF or NOREPLICAS. */
function refusesWrites(info: string): boolean {
  return (
    isAbove(info, 1) ||
    fact(info, 'role') === 'slave' ||
    fact(info, 'aof_last_write_status') === 'err' ||
    fact(info, 'rdb_last_bgsave_status') === 'err' ||
    // Reported only if Redis demands replicas.
    fact(info, 'min_slaves_good_slaves') === '0'
  );
}

function isAbove(info: string, highMark: number): boolean {
  const [used, max] = [Number(fact(info, 'used_memory')), Number(fact(info, 'maxmemory'))];
  return max > 0 && used > max * highMark;
}

/** A server that does not report it does not count as one that does. */
function evicts(info: string): boolean {
  const policy = fact(info, 'maxmemory_policy');
  return policy !== undefined && policy !== 'noeviction';
}

const fact = (info: string, name: string) => new RegExp(`^${name}:(.*?)\\r?$`, 'm').exec(info)?.[1];
