import { Role } from '@tally/contracts';
import { z } from 'zod';
import type { RedisClient } from '../stores/redis.ts';
import type { KeyMirror } from './known-keys.ts';

/** The longest age of a copy: services rely on the last answer of Postgres for an hour. */
const KEPT_SECONDS = 3_600;
/** The largest assumed difference between the clocks of two processes. */
const MAX_SKEW_MS = 5_000;

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
      const text = await redis.get(KEY + hash);
      if (text === null) return undefined;
      const { success, data } = Copy.safeParse(JSON.parse(text));
      if (!success) return undefined;
      const ids = [data.key.id, ...(data.key.sessionId === undefined ? [] : [data.key.sessionId])];
      const changed = await Promise.all(ids.map((id) => redis.get(CHANGED + id)));
      return changed.some((at) => at !== null && Number(at) + MAX_SKEW_MS >= data.at) ? undefined : data;
    },
    async keep(hash, { id, role, merchantId, teamId, expiresAt, sessionId, settingsHash }, at) {
      const session = {
        ...(sessionId !== undefined && { sessionId }),
        ...(settingsHash !== undefined && { settingsHash }),
      };
      const key = { id, role, merchantId, teamId, expiresAt, ...session };
      await redis.set(KEY + hash, JSON.stringify({ at, key }), 'EX', KEPT_SECONDS);
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
export async function changeKey<T>(
  redis: RedisClient,
  id: string,
  { change, now }: { change: () => Promise<T>; now: () => number },
): Promise<T> {
  const forget = () => redis.set(CHANGED + id, now(), 'EX', 2 * KEPT_SECONDS).catch(() => {});
  await forget();
  const changed = await change();
  await forget();
  return changed;
}
