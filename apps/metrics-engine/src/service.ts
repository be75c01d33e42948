import { lookup } from 'node:dns';
import { DAY_MS, dayOf, engine } from '@tally/contracts';
import { createAnalyticsClient, createIngestClient } from '@tally/contracts/client';
import { type Db, openDb } from '@tally/db';
import {
  type App,
  contractRoutes,
  createApp,
  createAudit,
  createAuthenticate,
  createKeyMirror,
  createReadiness,
  createRedis,
  failureLog,
  fetchWithin,
  type Log,
  type RedisClient,
  type Releasers,
  serveContract,
  serviceKeyOf,
  startLoop,
  startTelemetry,
} from '@tally/service';
import { Registry } from 'prom-client';
import { createAfterDaily } from './after-daily.ts';
import { type Alerts, createAlerts } from './alerts/alerts.ts';
import { createDeliver, type Deliver } from './alerts/deliver.ts';
import { createResolve } from './alerts/resolve.ts';
import { createWebhooks } from './alerts/webhooks.ts';
import { createCustom } from './custom/custom.ts';
import { createSources } from './custom/sources.ts';
import { createTurns } from './custom/turns.ts';
import type { Env } from './env.ts';
import { createDrain } from './fresh.ts';
import { createEngineMetrics } from './metrics.ts';
import { openRealtime } from './realtime/open.ts';
import { createRollupReader } from './rollups/read.ts';
import { createRollups } from './rollups/rollups.ts';
import { createHandlers } from './router.ts';
import { createSchedule, type Schedule, type ScheduleOptions } from './schedule.ts';

export type EngineService = {
  app: App;
  db: Db;
  schedule: Schedule;
  redis: RedisClient;
  alerts: Pick<Alerts, 'run'>;
  deliver: Pick<Deliver, 'begin' | 'run'>;
};

/** Milliseconds until runs of dead engines are searched again, until Postgres has answered. */
const RECOVER_MS = 1_000;
/** Milliseconds that a formula waits for a slot. */
const FORMULA_WAIT_MS = 5_000;

/** Opens the stores and builds metrics-engine on them; pushes everything opened to `releasers`. Does not listen. */
export async function createEngineService(
  env: Env,
  {
    log,
    releasers,
    now = Date.now,
    patterns,
  }: { log: Log; releasers: Releasers; now?: () => number; patterns?: ScheduleOptions['patterns'] },
): Promise<EngineService> {
  const registry = new Registry();
  await startTelemetry(env, { service: 'metrics-engine', registry, releasers });
  const db = await openDb(env.DATABASE_URL, {
    poolSize: env.POSTGRES_POOL_SIZE,
    formulaPoolSize: env.CUSTOM_POOL_SIZE,
    applicationName: 'metrics-engine',
    statementTimeoutMs: env.ROLLUP_TIMEOUT_MS,
    onUnavailable: failureLog(log, 'starting without Postgres', { level: 'warn' }),
  });
  releasers.push('postgres', () => db.close());
  const metrics = createEngineMetrics(registry);
  const called = (url: string, timeoutMs = env.JOB_CALL_TIMEOUT_MS) => ({
    url,
    key: serviceKeyOf(env) ?? '',
    fetch: fetchWithin(timeoutMs),
  });
  const ingest = createIngestClient(called(env.USAGE_INGEST_URL));
  const drain = createDrain({
    ingest: createIngestClient(called(env.USAGE_INGEST_URL, env.DRAIN_TIMEOUT_MS)),
  });
  const rollups = createRollups({
    db,
    drain: () => drain(null),
    weekStart: env.WEEK_START,
    maxBackfillDays: env.BACKFILL_MAX_DAYS,
    now,
    onFinished(job) {
      metrics.runEnded(job.kind, job.status);
      log.info({ job }, 'rollup run ended');
    },
    onFailure: (grain, period, error) => log.error({ err: error, grain, period }, 'a period could not be computed'),
  });
  const reader = createRollupReader(db);
  releasers.push('rollups', () => rollups.stop());
  // Takes over runs of a dead engine in the background, so that starting waits neither for them nor for Postgres.
  let recovered = false;
  const recovering = startLoop(
    RECOVER_MS,
    async () => {
      if (!recovered) await rollups.recover();
      recovered = true;
    },
    failureLog(log, 'runs could not be taken over; it is tried again'),
  );
  releasers.push('recovery', () => Promise.all([rollups.stop(), recovering.stop()]));

  const redis = createRedis(env.REDIS_URL, failureLog(log, 'the connection to Redis failed', { level: 'warn' }), {
    repeats: false,
  });
  releasers.push('redis', () => redis.disconnect());
  const { realtime, reconcile: reconcileRealtime } = openRealtime(env, {
    ...{ db, redis, metrics, log, releasers, now },
    drain: () =>
      ingest.flush.drain.mutate({}).then(
        ({ complete }) => complete,
        () => false,
      ),
  });
  const schedule = createSchedule({
    connect: (options) =>
      createRedis(env.REDIS_URL, failureLog(log, 'the connection to Redis failed', { level: 'warn' }), options),
    rollups,
    work: {
      async reconcile() {
        const { balanced, drift, meters, repaired } = await ingest.reconcile.repair.mutate({});
        if (!balanced)
          throw new Error(
            `${drift.length} numbers and ${meters.length} rollups of meters differ, ${repaired} days repaired`,
          );
        return { repaired };
      },
      afterDaily: createAfterDaily(createAnalyticsClient(called(env.ANALYTICS_API_URL))),
      realtime: reconcileRealtime,
      async cleanup() {
        // By the earlier of the two clocks: a wrong one removes nothing early.
        const at = Math.min(now(), (await db.look()).at);
        const before = dayOf(at - env.JOBS_LOG_RETENTION_DAYS * DAY_MS);
        return {
          runs: await db.rollups.prune(before),
          customMetrics: await db.custom.prune(before),
          copies: await db.realtime.prune(Math.floor(at)),
          alerts: await db.alerts.prune(before),
        };
      },
    },
    attempts: env.JOB_ATTEMPTS,
    backoffMs: env.JOB_BACKOFF_MS,
    ...(patterns && { patterns }),
    log,
    onEnded: metrics.jobEnded,
    onFailedJobs: (count) => metrics.failedJobs.set(count),
  });
  // Runs end between two periods, so that their job ends, too.
  releasers.push('schedule', () => Promise.all([rollups.stop(), schedule.stop()]));
  if (env.ENABLE_METRICS_SCHEDULER) schedule.start();

  const sources = createSources(db);
  const custom = createCustom({
    db,
    sources,
    turns: createTurns({
      places: env.CUSTOM_POOL_SIZE,
      perCaller: env.CUSTOM_MAX_PER_CALLER,
      waitMs: FORMULA_WAIT_MS,
    }),
    drain,
    now,
    limits: {
      medium: env.CUSTOM_COST_MEDIUM,
      high: env.CUSTOM_COST_HIGH,
      refused: env.CUSTOM_COST_LIMIT,
      timeoutMs: env.CUSTOM_TIMEOUT_MS,
      maxRows: env.CUSTOM_MAX_ROWS,
      maxDays: env.CUSTOM_MAX_DAYS,
    },
    onComputed: metrics.customEnded,
  });
  const webhooks = createWebhooks({ store: db.alerts, allowPrivate: env.WEBHOOK_ALLOW_PRIVATE, now });
  const alerts = createAlerts({
    db,
    custom,
    drain,
    now,
    onError: failureLog(log, 'alert rules could not be checked; it is tried again'),
  });
  const deliver = createDeliver({
    store: db.alerts,
    allowPrivate: env.WEBHOOK_ALLOW_PRIVATE,
    resolve: createResolve(lookup),
    now,
    onError: failureLog(log, 'webhooks could not be sent; it is tried again'),
  });
  releasers.push('webhooks', () => deliver.close());
  if (env.ENABLE_METRICS_SCHEDULER) {
    const loops = [alerts.start(), deliver.start()];
    releasers.push('alerts', () => Promise.all(loops.map((loop) => loop.stop())));
  }
  const app = createApp({
    name: 'metrics-engine',
    log,
    router: serveContract(
      engine,
      createHandlers({ rollups, reader, custom, sources, schedule, realtime, alerts, webhooks, reconcileRealtime }),
      createAudit({ service: 'metrics-engine', store: db.audit, log }),
    ),
    routes: contractRoutes('metrics-engine'),
    authenticate: createAuthenticate({
      env,
      keys: db.keys,
      mirror: createKeyMirror(redis),
      onError: (err) => log.warn({ err }, 'the last use of keys was not saved'),
      now,
    }),
    env,
    registry,
    // Without Redis, everything but realtime metrics and the schedule works.
    readiness: createReadiness({ postgres: db, redis, isOk: ({ postgres }) => postgres, log, now }),
  });
  // A backfill with a waiting caller ends between two periods; the next engine continues it.
  app.stopping.addEventListener('abort', () => void rollups.stop());
  return { app, db, schedule, redis, alerts, deliver };
}
