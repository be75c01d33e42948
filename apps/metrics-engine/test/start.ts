import { createEngineClient, type EngineClient } from '@tally/contracts/client';
import { migrate, openDb } from '@tally/db';
import { createLog, createReleasers } from '@tally/service';
import { freshDatabase, freshRedis } from '@tally/testkit';
import pg from 'pg';
import { readEnv } from '../src/env.ts';
import { createEngineService, type EngineService } from '../src/service.ts';

export const ADMIN = 'admin-key-of-this-test';

export type Engine = EngineService & {
  /** A client with the admin's key. */
  engine: EngineClient;
  as(key: string): EngineClient;
};

export type Stores = Awaited<ReturnType<typeof prepareStores>>;

/** Stores of a test's own, and engines on them in this process: with a scheduler only on demand. */
export async function prepareStores() {
  const [store, redis] = await Promise.all([freshDatabase(migrate), freshRedis()]);
  const db = await openDb(store.url);
  const client = new pg.Client({ connectionString: store.url });
  await client.connect();
  const releasers = createReleasers();
  return {
    store,
    redis,
    db,
    client,
    async start(settings: Record<string, string> = {}, now = Date.now): Promise<Engine> {
      const env = readEnv({
        DATABASE_URL: store.url,
        REDIS_URL: redis.url,
        TALLY_ADMIN_KEY: ADMIN,
        ENABLE_METRICS_SCHEDULER: 'false',
        USAGE_INGEST_URL: 'http://127.0.0.1:1',
        ...settings,
      });
      const service = await createEngineService(env, { log: createLog('test', 'silent'), releasers, now });
      const as = (key: string) =>
        createEngineClient({
          url: 'http://engine',
          key,
          fetch: async (input, init) => service.app.request(input as string, init as RequestInit),
        });
      return { ...service, as, engine: as(ADMIN) };
    },
    async close() {
      await releasers.releaseAll();
      await client.end();
      await db.close();
      await Promise.all([store.drop(), redis.drop()]);
    },
  };
}
