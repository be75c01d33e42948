import { Role } from '@tally/contracts';
import { z } from 'zod';
import type { RedisClient } from '../stores/redis.ts';
import type { KeyMirror } from './known-keys.ts';

/** The longest age of a copy: services rely on the last answer of Postgres for an hour. */
const KEPT_SECONDS = 3_600;
/** The largest assumed difference between the clocks of two masters of a Redis Cluster. */
const MAX_SKEW_MS = 5_000;

/** All moments are of the clock of Redis: those of the services may differ by hours, and go back. */
const NOW = `local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
`;
/** KEYS[1] copy   ARGV[1] key, in JSON   ARGV[2] its age in ms   ARGV[3] seconds kept */
const KEEP = `${NOW}local copy = string.format('{"at":%.0f,"key":%s}', now - ARGV[2], ARGV[1])
return redis.call('SET', KEYS[1], copy, 'EX', ARGV[3])`;
/** KEYS[1] copy   Returns {now, copy}. */
const FIND = `${NOW}return { now, redis.call('GET', KEYS[1]) }`;
/** KEYS[1] when a key was changed last   ARGV[1] seconds kept */
const CHANGE = `${NOW}return redis.call('SET', KEYS[1], string.format('%.0f', now), 'EX', ARGV[1])`;

const KEY = 'registry:key:';
const CHANGED = 'registry:key-changed:';

const Copy = z.object({
  at: z.number(),
  key: z.object({
    id: z.string(),
    role: Role,
    merchantId: z.string().nullable(),
    teamId: z.string().nullable(),
    expiresAt: z.string().nullable(),
    sessionId: z.string().exactOptional(),
    settingsHash: z.string().exactOptional(),
  }),
});

/**
 * Copies in Redis of the keys and sessions used within the last hour, so that a service that starts without Postgres
 * knows its callers. Copies hold hashes of secrets, never secrets.
 */
export function createKeyMirror(redis: RedisClient): KeyMirror {
  return {
    async find(hash) {
      const [now, text] = (await redis.eval(FIND, 1, KEY + hash)) as [number, string | null];
      if (text === null) return undefined;
      const { success, data } = Copy.safeParse(JSON.parse(text));
      if (!success) return undefined;
      const ids = [data.key.id, ...(data.key.sessionId === undefined ? [] : [data.key.sessionId])];
      const changed = await Promise.all(ids.map((id) => redis.get(CHANGED + id)));
      if (changed.some((at) => at !== null && Number(at) + MAX_SKEW_MS >= data.at)) return undefined;
      return { key: data.key, ageMs: now - data.at };
    },
    async keep(hash, { id, role, merchantId, teamId, expiresAt, sessionId, settingsHash }, ageMs) {
      const session = {
        ...(sessionId !== undefined && { sessionId }),
        ...(settingsHash !== undefined && { settingsHash }),
      };
      const key = { id, role, merchantId, teamId, expiresAt, ...session };
      await redis.eval(KEEP, 1, KEY + hash, JSON.stringify(key), ageMs, KEPT_SECONDS);
    },
    async drop(hash) {
      await redis.del(KEY + hash);
    },
  };
}

/**
 * Changes a key or session so that no older copy is used afterwards. Removes the copies before the change and again
 * after it, since another process may store one in between. If Redis is unavailable, copies live for the rest of their
 * hour, but count only if Postgres is unavailable as well.
 */
export async function changeKey<T>(redis: RedisClient, id: string, change: () => Promise<T>): Promise<T> {
  const forget = () => redis.eval(CHANGE, 1, CHANGED + id, 2 * KEPT_SECONDS).catch(() => {});
  await forget();
  const changed = await change();
  await forget();
  return changed;
}
