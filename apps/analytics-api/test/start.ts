import {
  type AnalyticsClient,
  createAnalyticsClient,
  createIngestClient,
  type IngestClient,
} from '@tally/contracts/client';
import { type Db, migrate } from '@tally/db';
import { type App, createLog, createReleasers } from '@tally/service';
import { freshDatabase, freshRedis, startServiceProcess } from '@tally/testkit';
import { readEnv } from '../src/env.ts';
import { createAnalyticsService } from '../src/service.ts';

export const KEY = 'the-admin-key-of-the-tests';

export type Running = {
  app: App;
  db: Db;
  databaseUrl: string;
  client: AnalyticsClient;
  ingest: IngestClient;
  /** Another analytics-api on the same stores, until its `end` or the end of all. */
  another(
    env?: Record<string, string>,
    now?: () => number,
  ): Promise<{ app: App; client: AnalyticsClient; end(): Promise<void> }>;
  clientOf(app: App, key?: string): AnalyticsClient;
  /** The settings of an analytics-api in its own process. */
  serviceEnv(): Record<string, string>;
  stop(): Promise<void>;
};

/** analytics-api in this process, beside a usage-ingest that flushes only on demand. */
export async function startAnalytics(env: Record<string, string> = {}): Promise<Running> {
  const [database, redis] = await Promise.all([freshDatabase(migrate), freshRedis()]);
  const common = { DATABASE_URL: database.url, REDIS_URL: redis.url, TALLY_ADMIN_KEY: KEY, POSTGRES_POOL_SIZE: '4' };
  const process = await startServiceProcess('usage-ingest', { ...common, ENABLE_FLUSH: 'false' });
  const releasers = createReleasers();
  const clientOf = (app: App, key = KEY) =>
    createAnalyticsClient({
      url: 'http://analytics',
      key,
      fetch: async (input, init) => app.request(input as string, init as RequestInit),
    });
  const another = async (more: Record<string, string> = {}, now = Date.now) => {
    const settings = readEnv({
      ...common,
      USAGE_INGEST_URL: process.url,
      ADMIN_ANALYTICS_RATE_LIMIT: '1000000',
      ADMIN_CACHE_REBUILD_LIMIT: '1000000',
      ...env,
      ...more,
    });
    const own = createReleasers();
    releasers.push('analytics-api', () => own.releaseAll());
    const { app, db } = await createAnalyticsService(settings, {
      log: createLog('test', 'silent'),
      releasers: own,
      now,
    });
    return { app, db, client: clientOf(app), end: () => own.releaseAll() };
  };
  return {
    ...(await another()),
    another,
    clientOf,
    serviceEnv: () => ({ ...common, USAGE_INGEST_URL: process.url, ...env }),
    databaseUrl: database.url,
    ingest: createIngestClient({ url: process.url, key: KEY }),
    async stop() {
      await releasers.releaseAll();
      await process.stop();
      await Promise.all([database.drop(), redis.drop()]);
    },
  };
}
