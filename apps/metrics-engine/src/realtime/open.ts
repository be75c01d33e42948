import type { Db } from '@tally/db';
import { failureLog, type Log, type RedisClient, type Releasers, startLoop } from '@tally/service';
import type { Env } from '../env.ts';
import type { EngineMetrics } from '../metrics.ts';
import { createBackup } from './backup.ts';
import { createRealtime, type Realtime } from './realtime.ts';
import { createReconcile, type Reconciled } from './reconcile.ts';

/**
 * Opens realtime metrics: restores what Redis lost when it is asked for, and copies them to Postgres again and again,
 * and once more when the engine stops. `reconcile` compares them with their sources.
 */
export function openRealtime(
  env: Env,
  options: {
    db: Db;
    redis: RedisClient;
    /** Flushes what was acknowledged so far to Postgres; returns false on failure. */
    drain(): Promise<boolean>;
    metrics: EngineMetrics;
    log: Log;
    releasers: Releasers;
    now: () => number;
  },
): { realtime: Realtime; reconcile(): Promise<Reconciled> } {
  const { db, redis, drain, metrics, log, releasers, now } = options;
  const backup = createBackup({ db, redis, ttlSeconds: env.REALTIME_TTL_SECONDS, now });
  const realtime = createRealtime({
    redis,
    limits: { names: env.REALTIME_MAX_NAMES, seriesPerName: env.REALTIME_MAX_SERIES },
    ttlSeconds: env.REALTIME_TTL_SECONDS,
    watchMs: env.REALTIME_WATCH_MS,
    now,
    restore: (merchantId) => backup.restore(merchantId),
    onStored: metrics.pointsStored,
    maxWatchers: { all: env.REALTIME_MAX_WATCHERS, perCaller: env.REALTIME_MAX_WATCHERS_PER_KEY },
    onWatchers: (count) => metrics.watchers.set(count),
  });
  const saving = startLoop(
    env.REALTIME_SAVE_MS,
    async () => {
      if (redis.status !== 'ready') return;
      await backup.run();
      metrics.realtimeSaved();
    },
    failureLog(log, 'realtime metrics could not be saved; it is tried again'),
  );
  releasers.push('realtime', async () => {
    await saving.stop();
    if (redis.status !== 'ready') return;
    // An unavailable store must not keep the process from stopping.
    await backup.run().catch((error: unknown) => log.error({ err: error }, 'realtime metrics could not be saved'));
  });
  const reconcile = createReconcile({ redis, db, backup, realtime, drain, now });
  return {
    realtime,
    async reconcile() {
      const outcome = await reconcile();
      metrics.realtimeReconciled(outcome);
      if (outcome.restored > 0 || outcome.corrected.length > 0)
        log.warn({ ...outcome, corrected: outcome.corrected.slice(0, 20) }, 'realtime metrics were corrected');
      return outcome;
    },
  };
}
