import { Role } from '@tally/contracts';
import { z } from 'zod';
import type { KnownKey } from './known-keys.ts';
import type { RedisClient } from './redis.ts';

export type KeyMirror = {
  /** Returns the copy of the key with this hash, and when Postgres had it; undefined where there is none to rely on. */
  find(hash: string): Promise<{ key: KnownKey; at: number } | undefined>;
  /** Keeps a copy of what Postgres answered at this time. */
  keep(hash: string, key: KnownKey, at: number): Promise<void>;
  /** Removes the copy of a key that Postgres no longer has. */
  drop(hash: string): Promise<void>;
};

/** Copies are of no use for longer: services rely on what Postgres last said for an hour. */
const KEPT_SECONDS = 3_600;
/** The clocks of two processes may differ by this much. */
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
 * Copies of the keys and sessions used within the last hour, in Redis: a service that starts while Postgres is unavailable
 * knows its callers by them. They have hashes of secrets, never secrets.
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
 * Changes a key or session so that no copy of it from before is relied on afterwards, whoever kept it. The copies go
 * first, and again when the change is made, since one may be kept in between. Redis may be unavailable: copies then
 * live for the rest of their hour, and count only if Postgres is unavailable as well.
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
