import { analytics } from '@tally/contracts';
import { createIngestClient } from '@tally/contracts/client';
import { type Db, openDb } from '@tally/db';
import {
  type App,
  contractRoutes,
  createApp,
  createAudit,
  createAuthenticate,
  createKeyMirror,
  createRateLimit,
  createReadiness,
  createRedis,
  failureLog,
  fetchWithin,
  type Log,
  type Releasers,
  redisReady,
  serveContract,
  serviceKeyOf,
  startTelemetry,
} from '@tally/service';
import { Registry } from 'prom-client';
import { createBills } from './bills/bills.ts';
import { createCache } from './cache.ts';
import { shareConnections } from './connections.ts';
import { createDays } from './days.ts';
import { createDirectory } from './directory.ts';
import { createDocuments } from './documents.ts';
import type { Env } from './env.ts';
import { createDownloads } from './export/downloads.ts';
import { exportRoutes } from './export/routes.ts';
import { createFallback } from './fallback.ts';
import { formerRoutes } from './former.ts';
import { createFreshness } from './fresh.ts';
import { gaugesRoute } from './gauges.ts';
import { createImport } from './import.ts';
import { createLabels } from './labels.ts';
import { createReadMeasure } from './measure-meter.ts';
import { createReadMeter } from './meter.ts';
import { createRead } from './read.ts';
import { createHandlers } from './router.ts';
import { createWarm } from './warm.ts';

export type AnalyticsService = { app: App; db: Db };

const REDIS_DEADLINE_MS = 2_000;
const RECORD_TIMEOUT_MS = 30_000;
const EXPORTS_UNDER_WAY = 64;
const EXPORT_KEEP_MS = 300_000;

/** Opens the stores and builds analytics-api on them; pushes everything opened to `releasers`. Does not listen. */
export async function createAnalyticsService(
  env: Env,
  { log, releasers, now = Date.now }: { log: Log; releasers: Releasers; now?: () => number },
): Promise<AnalyticsService> {
  const registry = new Registry();
  await startTelemetry(env, { service: 'analytics-api', registry, releasers });
  const db = await openDb(env.DATABASE_URL, {
    applicationName: 'analytics-api',
    poolSize: env.POSTGRES_POOL_SIZE,
    // Over several rollups the planner expects 200 groups and shares them among workers: with 10,000 that took twice as
    // long.
    parallelWorkers: 0,
    onUnavailable: failureLog(log, 'starting without Postgres', { level: 'warn' }),
  });
  releasers.push('postgres', () => db.close());
  const ingestWithin = (timeoutMs: number) =>
    createIngestClient({
      url: env.USAGE_INGEST_URL,
      key: serviceKeyOf(env) ?? '',
      fetch: fetchWithin(timeoutMs),
    });
  const ingest = ingestWithin(env.FRESHNESS_TIMEOUT_MS);
  const recording = ingestWithin(RECORD_TIMEOUT_MS);
  const redis = createRedis(env.REDIS_URL, failureLog(log, 'the connection to Redis failed', { level: 'warn' }), {
    repeats: false,
  });
  releasers.push('redis', () => redis.disconnect());
  // Without Redis, queries are answered all the same, uncached and uncounted.
  await redisReady(redis, REDIS_DEADLINE_MS).catch((error: unknown) =>
    log.warn({ err: error }, 'the connection to Redis failed'),
  );
  const freshness = createFreshness({
    ingest,
    overflowed: db.usage.overflowed,
    now,
  });
  const labels = createLabels(db.directory);
  const documents = createDocuments(db.days);
  const { queries: queue, exports } = shareConnections(env.POSTGRES_POOL_SIZE, env.EXPORTS_AT_ONCE);
  const cachedIn = env.ENABLE_ANALYTICS_CACHE ? redis : undefined;
  const cache = createCache({ redis: cachedIn, changes: db.changes, queue, now });
  const read = createRead({
    db,
    freshness,
    cache,
    documents,
    labels,
    fallback: createFallback({ cache, now }),
    queue,
    maxDays: env.ANALYTICS_MAX_DAYS,
    maxRows: env.ANALYTICS_MAX_ROWS,
    now,
  });
  const readMeter = createReadMeter({
    db,
    readMeasure: createReadMeasure({ db, documents, maxRows: env.ANALYTICS_MAX_ROWS }),
    freshness,
    cache,
    queue,
    maxDays: env.ANALYTICS_MAX_DAYS,
    maxRows: env.ANALYTICS_MAX_ROWS,
    now,
  });
  const rates = createRateLimit({
    redis,
    limits: {
      analytics: env.ADMIN_ANALYTICS_RATE_LIMIT,
      export: env.ADMIN_EXPORT_RATE_LIMIT,
      rebuild: env.ADMIN_CACHE_REBUILD_LIMIT,
    },
    now,
  });
  const days = createDays({
    db,
    freshness,
    maxDays: env.ANALYTICS_MAX_DAYS,
    now,
    onProgress: (progress) => log.info(progress, 'day documents'),
  });
  const directory = createDirectory(db.directory);
  const downloads = createDownloads({
    queue: exports,
    atOnce: EXPORTS_UNDER_WAY,
    maxBytes: env.EXPORT_SPOOL_MB * 1024 * 1024,
    stallMs: env.EXPORT_STALL_MS,
    keepMs: EXPORT_KEEP_MS,
    log,
  });
  const app = createApp({
    name: 'analytics-api',
    log,
    router: serveContract(
      analytics,
      createHandlers({
        read,
        readMeter,
        freshness,
        directory,
        days,
        importDays: createImport({ ingest: recording, days: db.days, now }),
        bills: createBills({ store: db.bills, read, ingest: recording, now }),
        cache,
        warm: createWarm(read, now),
        rates,
      }),
      createAudit({ service: 'analytics-api', store: db.audit, log }),
    ),
    authenticate: createAuthenticate({
      env,
      keys: db.keys,
      mirror: createKeyMirror(redis),
      onError: (err) => log.warn({ err }, 'the last use of keys was not saved'),
      now,
    }),
    env,
    routes: [
      ...contractRoutes('analytics-api'),
      ...exportRoutes({
        ...{ db, read, readMeter, labels, freshness, documents, rates, downloads },
        maxDays: env.EXPORT_MAX_DAYS,
      }),
      gaugesRoute({ db, freshness, rates, now }),
      ...formerRoutes(env),
    ],
    registry,
    // Without Redis, answers are not cached and calls are not limited: no reason to send callers elsewhere.
    readiness: createReadiness({ postgres: db, redis, isOk: ({ postgres }) => postgres, log, now }),
  });
  return { app, db };
}
