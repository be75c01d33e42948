import { TallyError } from '@tally/contracts';
import { coalesceBy } from './coalesce.ts';
import type { RedisClient } from './redis.ts';

export type RateLimit = {
  /** Counts one call of an authenticated caller; RATE_LIMITED where it has made its calls of this minute. */
  take(kind: string, callerId: string): Promise<void>;
  /**
   * The same while `read` is under way, so that nobody waits for the count: what it gives is lost where the call was one
   * too many. A caller that is known to have made its calls of this minute is refused before anything is read.
   */
  during<T>(kind: string, callerId: string, read: () => Promise<T>): Promise<T>;
};

const WINDOW_MS = 60_000;
/** One command with one answer: a transaction of two takes several times the time of this process. */
const COUNT = `local calls = redis.call('incrby', KEYS[1], ARGV[1])
redis.call('pexpire', KEYS[1], ARGV[2])
return calls`;

/**
 * So many calls per caller and minute of the clock, counted in Redis so that all processes agree. Lossy on purpose: with
 * Redis away every call passes. Count callers after their key was checked, never by what a request claims.
 */
export function createRateLimit({
  redis,
  limits,
  now = Date.now,
}: {
  redis: RedisClient;
  limits: Readonly<Record<string, number>>;
  now?: () => number;
}): RateLimit {
  /** Callers that have made their calls of a window, as far as this process knows. */
  const spent = { window: 0, keys: new Set<string>() };

  /** Calls that no command has counted yet, by their keys: those that come together are counted by one. */
  const uncounted = new Map<string, number>();
  const countCalls = coalesceBy(async (key: string) => {
    const calls = uncounted.get(key) ?? 0;
    uncounted.delete(key);
    return Number(await redis.eval(COUNT, 1, key, calls, 2 * WINDOW_MS)) - calls;
  });

  /** Counts a call; returns which one of its window it is. */
  async function countCall(key: string): Promise<number> {
    const place = (uncounted.get(key) ?? 0) + 1;
    uncounted.set(key, place);
    return (await countCalls(key)) + place;
  }

  function limitOf(kind: string): number {
    const limit = limits[kind];
    if (limit === undefined) throw new Error(`There is no rate limit "${kind}"`);
    return limit;
  }

  function windowOf(kind: string, callerId: string) {
    const window = Math.floor(now() / WINDOW_MS);
    return { window, key: `rate:{${callerId}}:${kind}:${window}` };
  }

  const rates: RateLimit = {
    async take(kind, callerId) {
      const limit = limitOf(kind);
      const { window, key } = windowOf(kind, callerId);
      const call = await countCall(key).catch(() => 0);
      if (call <= limit) return;
      if (spent.window !== window) spent.keys.clear();
      spent.window = window;
      spent.keys.add(key);
      throw limited(limit, (window + 1) * WINDOW_MS - now());
    },
    async during(kind, callerId, read) {
      const { window, key } = windowOf(kind, callerId);
      if (spent.keys.has(key)) throw limited(limitOf(kind), (window + 1) * WINDOW_MS - now());
      const [answer] = await Promise.all([read(), rates.take(kind, callerId)]);
      return answer;
    },
  };
  return rates;
}

function limited(limit: number, waitMs: number): TallyError {
  const retryAfter = Math.max(1, Math.ceil(waitMs / 1000));
  return new TallyError('RATE_LIMITED', `Too many requests: at most ${limit} per minute.`, {
    details: { limit, windowSeconds: WINDOW_MS / 1000, retryAfter },
  });
}
