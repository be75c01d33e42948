import { createIngestClient, type IngestClient } from '@tally/contracts/client';
import { migrate } from '@tally/db';
import { createLog, createReleasers } from '@tally/service';
import { freshDatabase, freshRedis } from '@tally/testkit';
import { readEnv } from '../src/env.ts';
import type { FaultPoint } from '../src/faults.ts';
import { createIngestService, type IngestService } from '../src/service.ts';
import type { Source } from '../src/sources/source.ts';

export const ADMIN_KEY = 'the-admin-key-of-the-tests';

export type Fixture = IngestService & {
  admin: IngestClient;
  clientWith(key: string): IngestClient;
  /** The service's clock; it moves only when a test moves it. */
  clock: { now: number };
  databaseUrl: string;
  redisUrl: string;
  close(): Promise<void>;
};

/**
 * usage-ingest in process, with a clock that stands still and only explicit flushes; on stores of its own, or on those
 * of another one.
 */
export async function startIngest(
  settings: Record<string, string> = {},
  fault?: FaultPoint,
  beside?: { databaseUrl: string; redisUrl: string },
  sources: readonly Source[] = [],
): Promise<Fixture> {
  const keep = async () => {};
  const [database, redis] = beside
    ? [
        { url: beside.databaseUrl, drop: keep },
        { url: beside.redisUrl, drop: keep },
      ]
    : await Promise.all([freshDatabase(migrate), freshRedis()]);
  const releasers = createReleasers();
  const clock = { now: Date.parse('2026-11-22T12:00:00Z') };
  const env = readEnv({
    DATABASE_URL: database.url,
    REDIS_URL: redis.url,
    TALLY_ADMIN_KEY: ADMIN_KEY,
    TALLY_SERVICE_KEY: 'the-service-key-of-the-tests',
    ENABLE_FLUSH: 'false',
    TRACK_MERGE_MS: '1',
    // With one connection, work that holds a merchant's lock and requests another connection fails every time.
    POSTGRES_POOL_SIZE: '1',
    ...settings,
  });
  const service = await createIngestService(env, {
    log: createLog('test', 'silent'),
    releasers,
    now: () => clock.now,
    sources,
    ...(fault && { fault }),
  });
  const clientWith = (key: string) =>
    createIngestClient({
      url: 'http://ingest',
      key,
      fetch: async (input, init) => service.app.request(input as string, init as RequestInit),
    });
  return {
    ...service,
    admin: clientWith(ADMIN_KEY),
    clientWith,
    clock,
    databaseUrl: database.url,
    redisUrl: redis.url,
    async close() {
      await releasers.releaseAll();
      await Promise.all([database.drop(), redis.drop()]);
    },
  };
}
