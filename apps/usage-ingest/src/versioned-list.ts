import type { RedisClient } from '@tally/service';
import type { z } from 'zod';

/** `n`, or `n/m` where two counters make the version; both only rise. */
type Versioned = { version: string };

export type VersionedList<List> = {
  /** The newest list that this process knows; undefined without one. */
  current(): List | undefined;
  /** Loads the list if it has changed. Rejects if Postgres is unavailable and Redis has no newer one. */
  refresh(): Promise<void>;
};

/** Longer than the start of every copy, up to the end of its version. */
const HEAD_BYTES = 80;

/**
 * A list of Postgres as one process knows it. A process that loads a version copies it to Redis, so that others learn of
 * it also while Postgres is unavailable.
 */
export function createVersionedList<Stored extends Versioned, List extends Versioned>(options: {
  redis: RedisClient;
  /** The key of the copy in Redis. */
  key: string;
  copy: z.ZodType<Stored>;
  store: { version(): Promise<string>; load(): Promise<Stored> };
  /** Makes the list ready for use. */
  prepare(stored: Stored): List;
  /** Returns true if the list must be loaded again although its version is the newest. */
  isOver?(list: List): boolean;
}): VersionedList<List> {
  const { redis, key, store, isOver = () => false } = options;
  let list: List | undefined;

  function use(stored: Stored): void {
    // Of two loads at once, the older may end last.
    if (list === undefined || !isNewer(list, stored)) list = options.prepare(stored);
  }

  async function versionOfCopy(): Promise<string | undefined> {
    const head = await redis.getrange(key, 0, HEAD_BYTES - 1);
    return /^\{"version":"([^"]+)"/.exec(head)?.[1];
  }

  async function load(): Promise<void> {
    const stored = await store.load();
    use(stored);
    const { version, ...rest } = stored;
    await redis.set(key, JSON.stringify({ version, ...rest })).catch(() => {});
  }

  /** Uses the copy if it is newer; returns whether it is. */
  async function useCopy(): Promise<boolean> {
    const version = await versionOfCopy();
    if (version === undefined || (list !== undefined && !isNewer({ version }, list))) return false;
    const text = await redis.get(key);
    if (text === null) return false;
    use(options.copy.parse(JSON.parse(text)));
    return true;
  }

  return {
    current: () => list,
    async refresh() {
      try {
        const version = await store.version();
        const copied = await versionOfCopy().catch(() => version);
        if (version !== list?.version || version !== copied || isOver(list)) await load();
      } catch (error) {
        if (!(await useCopy().catch(() => false))) throw error;
      }
    },
  };
}

function isNewer(one: Versioned, other: Versioned): boolean {
  const [[a, b], [c, d]] = [numbersOf(one), numbersOf(other)];
  return a === c ? b > d : a > c;
}

function numbersOf({ version }: Versioned): [bigint, bigint] {
  const [first = '0', second = '0'] = version.split('/');
  return [BigInt(first), BigInt(second)];
}
