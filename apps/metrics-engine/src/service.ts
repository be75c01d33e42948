import { engine } from '@tally/contracts';
import { type Db, openDb } from '@tally/db';
import {
  type App,
  createApp,
  createAuthenticate,
  createRedis,
  type Log,
  type RedisClient,
  type Releasers,
  serveContract,
  startLoop,
} from '@tally/service';
import { Registry } from 'prom-client';
import { createCustom } from './custom/custom.ts';
import type { Env } from './env.ts';

import { createBackup } from './realtime/backup.ts';
import { createRealtime } from './realtime/realtime.ts';
import { mountRest } from './rest/rest.ts';
import { createRollupReader } from './rollups/read.ts';
import { createRollups } from './rollups/rollups.ts';
import { createHandlers } from './router.ts';
import { createSchedule, type Schedule } from './schedule.ts';

export type EngineService = { app: App; db: Db; schedule: Schedule; redis: RedisClient };

/** Opens the stores and builds metrics-engine on them; everything opened is pushed to `releasers`. Does not listen. */
export async function createEngineService(
  env: Env,
  { log, releasers, now = Date.now }: { log: Log; releasers: Releasers; now?: () => number },
): Promise<EngineService> {
  const db = await openDb(env.DATABASE_URL, {
    poolSize: env.POSTGRES_POOL_SIZE,
    applicationName: 'metrics-engine',
    statementTimeoutMs: env.ROLLUP_TIMEOUT_MS,
  });
  releasers.push('postgres', () => db.close());
  const rollups = createRollups({
    db,
    weekStart: env.WEEK_START,
    maxBackfillDays: env.BACKFILL_MAX_DAYS,
    now,
    onFinished: (job) => log.info({ job }, 'rollup run ended'),
    onFailure: (grain, period, error) => log.error({ err: error, grain, period }, 'a period could not be computed'),
  });
  releasers.push('rollups', () => rollups.stop());
  // Runs that a dead engine left: taken over in the background, so that starting does not wait for them.
  void rollups.recover().catch((error: unknown) => log.error({ err: error }, 'runs could not be taken over'));

  const schedule = createSchedule({
    connect: () => createRedis(env.REDIS_URL, (error) => log.warn({ err: error }, 'redis'), { patient: true }),
    rollups,
    prune: async (before) => (await db.rollups.prune(before)) + (await db.realtime.prune(now())),
    logRetentionDays: env.JOBS_LOG_RETENTION_DAYS,
    attempts: env.JOB_ATTEMPTS,
    backoffMs: env.JOB_BACKOFF_MS,
    log,
  });
  releasers.push('schedule', () => schedule.stop());
  if (env.ENABLE_JOB_SCHEDULER) await schedule.start();

  const redis = createRedis(env.REDIS_URL, (error) => log.warn({ err: error }, 'redis'));
  releasers.push('redis', () => redis.disconnect());
  const realtime = createRealtime({
    redis,
    limits: { names: env.REALTIME_MAX_NAMES, seriesPerName: env.REALTIME_MAX_SERIES },
    ttlSeconds: env.REALTIME_TTL_SECONDS,
    watchMs: env.REALTIME_WATCH_MS,
    now,
  });
  const backup = createBackup({ db, redis, ttlSeconds: env.REALTIME_TTL_SECONDS, now });
  const saving = startLoop(
    env.REALTIME_SAVE_MS,
    async () => {
      if (redis.status === 'ready') await backup.run();
    },
    (error) => log.error({ err: error }, 'realtime metrics could not be saved; it is tried again'),
  );
  releasers.push('realtime', async () => {
    await saving.stop();
    if (redis.status !== 'ready') return;
    // A store that is away must not keep the process from stopping.
    await backup.run().catch((error: unknown) => log.error({ err: error }, 'realtime metrics could not be saved'));
  });
  const custom = createCustom({
    db,
    limits: {
      medium: env.CUSTOM_COST_MEDIUM,
      high: env.CUSTOM_COST_HIGH,
      refused: env.CUSTOM_COST_LIMIT,
      timeoutMs: env.CUSTOM_TIMEOUT_MS,
      maxRows: env.CUSTOM_MAX_ROWS,
      maxDays: env.CUSTOM_MAX_DAYS,
    },
  });
  const app = createApp({
    name: 'metrics-engine',
    log,
    router: serveContract(
      engine,
      createHandlers({ rollups, reader: createRollupReader(db), custom, schedule, realtime }),
    ),
    authenticate: createAuthenticate({
      adminKey: env.TALLY_ADMIN_KEY,
      serviceKey: env.TALLY_SERVICE_KEY,
      findByHash: (hash) => db.keys.findByHash(hash),
      now,
    }),
    maxBodyBytes: env.MAX_BODY_BYTES,
    registry: new Registry(),
    async health() {
      await db.ping();
      // Without Redis all but realtime metrics and the schedule answers.
      const ready = redis.status === 'ready';
      return { ok: true, degraded: !ready, postgres: true, redis: ready };
    },
  });
  mountRest(app);
  return { app, db, schedule, redis };
}
