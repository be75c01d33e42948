import { TallyError } from '@tally/contracts';
import { coalesceBy } from '../coalesce.ts';
import type { RedisClient } from './redis.ts';

export type RateLimit = {
  /** Counts one call of an authenticated caller. Throws RATE_LIMITED if its calls of this minute are used up. */
  take(kind: string, callerId: string): Promise<void>;
  /**
   * Counts while `read` runs, so that nobody waits for the count; discards the result if the call exceeded the limit. A
   * caller known to be over the limit is refused before the read.
   */
  during<T>(kind: string, callerId: string, read: () => Promise<T>): Promise<T>;
};

const WINDOW_MS = 60_000;
/** One command with one answer: a transaction of two takes several times the time of this process. */
const COUNT = `local calls = redis.call('incrby', KEYS[1], ARGV[1])
redis.call('pexpire', KEYS[1], ARGV[2])
return calls`;

/**
 * Limits calls per caller and minute of the clock, counted in Redis for all processes. Lossy on purpose: while Redis is
 * unavailable, every call passes. Call it after the key was checked, never with what a request claims.
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
  /** Callers known to this process to have used up a window. */
  const spent = { window: 0, keys: new Set<string>() };

  /** Uncounted calls by key: one command counts those that arrive together. */
  const uncounted = new Map<string, number>();
  const countCalls = coalesceBy(async (key: string) => {
    const calls = uncounted.get(key) ?? 0;
    uncounted.delete(key);
    return Number(await redis.eval(COUNT, 1, key, calls, 2 * WINDOW_MS)) - calls;
  });

  /** Counts a call; returns its number within the window. */
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
