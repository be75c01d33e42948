import { TallyError } from '@tally/contracts';
import type { RedisClient } from './redis.ts';

export type RateLimit = {
  /** Counts one call of an authenticated caller; RATE_LIMITED where it has made its calls of this minute. */
  take(kind: string, callerId: string): Promise<void>;
};

const WINDOW_MS = 60_000;

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
  return {
    async take(kind, callerId) {
      const limit = limits[kind];
      if (limit === undefined) throw new Error(`There is no rate limit "${kind}"`);
      const at = now();
      const window = Math.floor(at / WINDOW_MS);
      const key = `rate:{${callerId}}:${kind}:${window}`;
      const calls = await countCall(redis, key).catch(() => 0);
      if (calls <= limit) return;
      const retryAfter = Math.max(1, Math.ceil(((window + 1) * WINDOW_MS - at) / 1000));
      throw new TallyError('RATE_LIMITED', `Too many requests: at most ${limit} per minute.`, {
        details: { limit, windowSeconds: WINDOW_MS / 1000, retryAfter },
      });
    },
  };
}

async function countCall(redis: RedisClient, key: string): Promise<number> {
  const replies = await redis
    .multi()
    .incr(key)
    .pexpire(key, 2 * WINDOW_MS)
    .exec();
  return Number(replies?.[0]?.[1] ?? 0);
}
