import { HOUR_MS, ingest } from '@tally/contracts';
import { type Db, openDb } from '@tally/db';
import {
  type App,
  createApp,
  createAudit,
  createAuthenticate,
  createReadiness,
  createRedis,
  type Log,
  type RedisClient,
  type Releasers,
  redisReady,
  serveContract,
  startLoop,
} from '@tally/service';
import { Registry } from 'prom-client';
import { createAccept } from './accept.ts';
import { createAdjust } from './adjust.ts';
import { createAuditLog } from './audit-log.ts';
import { createCounters } from './counters/counters.ts';
import { createCurrentTotals } from './current.ts';
import { createDeadLetters } from './dead-letters.ts';
import { durabilityOf } from './durability.ts';
import type { Env } from './env.ts';
import { createExplain } from './explain.ts';
import { type FaultPoint, faultsOf } from './faults.ts';
import { createDrain } from './flush/drain.ts';
import { createFlush, type Flush } from './flush/flush.ts';

import { startScheduler } from './jobs/scheduler.ts';
import { createKeys } from './keys.ts';
import { createIngestMetrics } from './metrics.ts';
import { createRecentEntries } from './recent.ts';
import { createReconcile, presentDrift } from './reconcile/index.ts';
import { watchRedis } from './redis-watch.ts';
import { createCloseDays } from './retention.ts';
import { createHandlers } from './router.ts';
import { createSessions } from './sessions.ts';
import { createTrack } from './track.ts';

export type IngestService = { app: App; flush: Flush; db: Db; redis: RedisClient };

export type IngestOptions = { log: Log; releasers: Releasers; now?: () => number; fault?: FaultPoint };

/** Opens the stores and builds usage-ingest on them; everything opened is pushed to `releasers`. Does not listen. */
export async function createIngestService(env: Env, options: IngestOptions): Promise<IngestService> {
  const { log, releasers, now = Date.now } = options;
  const db = await openDb(env.DATABASE_URL, {
    applicationName: 'usage-ingest',
    poolSize: env.POSTGRES_POOL_SIZE,
  });
  releasers.push('postgres', () => db.close());
  const redis = createRedis(env.REDIS_URL, (error) => log.warn({ err: error }, 'redis'));
  releasers.push('redis', () => redis.disconnect());
  await redisReady(redis);
  const durability = await durabilityOf(redis, db);
  log.info({ durability }, 'durability');

  const readiness = createReadiness({
    postgres: db,
    redis,
    memoryMark: env.REDIS_MEMORY_HIGH_MARK,
    // Either store alone is enough to accept usage; without both nothing can be promised.
    isOk: (stores) => stores.postgres || stores.redis,
    facts: () => ({ durability }),
    log,
    now,
  });

  const fault = options.fault ?? faultsOf(env.TALLY_FAULT);
  const registry = new Registry();
  const metrics = createIngestMetrics(registry, durability);
  const limits = {
    typesPerDay: env.MAX_METRIC_TYPES_PER_DAY,
    dimensionsPerDay: env.MAX_DIMENSIONS_PER_DAY,
    waitReplicas: env.REDIS_WAIT_REPLICAS,
  };
  const counters = createCounters(redis, limits, fault);
  let restarted = true;
  const watch = watchRedis({
    redis,
    highMark: env.REDIS_MEMORY_HIGH_MARK,
    intervalMs: 1_000,
    onRestart() {
      log.warn('redis was started again; its totals are compared with postgres');
      restarted = true;
    },
  });
  releasers.push('redis watch', () => watch.stop());
  const accept = createAccept({
    counters,
    journal: db.journal,
    retentionDays: env.JOURNAL_RETENTION_DAYS,
    now,
    fault,
    isFull: () => watch.isFull(),
    onDetour(error) {
      metrics.detours.inc();
      log.warn({ err: error }, 'redis could not take a batch; it goes to postgres');
    },
  });
  const track = createTrack({ accept, counters, db, mergeMs: env.TRACK_MERGE_MS, now });
  const drain = createDrain({
    counters,
    journal: db.journal,
    pieceEntries: env.FLUSH_PIECE_ENTRIES,
    now,
    fault,
    onError: readiness.sawError,
    onDeadLetter(line, error) {
      metrics.deadLetters.inc();
      log.error({ err: error, merchantId: line.merchant_id, date: line.date, entryId: line.id }, 'dead letter');
    },
    onFlushed({ entries, inserted, durationMs }) {
      metrics.flushed(entries, inserted, durationMs);
      log.debug({ entries, inserted, durationMs: Math.round(durationMs) }, 'flushed');
    },
  });
  const flush = createFlush({ counters, db, drain, now });
  const reconcile = createReconcile({ counters, db, drain: flush.drainMerchants, now, fault });
  const closeDays = createCloseDays({ db, retentionDays: env.JOURNAL_RETENTION_DAYS, now });
  if (env.ENABLE_FLUSH) {
    const repair = async () => {
      restarted = false;
      const report = await reconcile.repair().catch((error: unknown) => {
        restarted = true;
        throw error;
      });
      metrics.reconciled(report.drift);
      metrics.waitingDeadLetters.set(await db.deadLetters.count());
      if (!report.balanced) log.error({ drift: report.drift.slice(0, 20).map(presentDrift) }, 'books differ');
    };
    const flushLoop = startLoop(
      env.FLUSH_INTERVAL_MS,
      async () => {
        // Until Redis has answered nobody knows what waits.
        let lagMs = Number.NaN;
        const { errors } = await drain
          .drain({ wait: false })
          .then(async (drained) => {
            lagMs = await flush.lagMs();
            return drained;
          })
          .finally(() => metrics.lagSeconds.set(lagMs / 1000));
        metrics.flushErrors.inc(errors.length);
        await reconcile.settle();
        if (errors.length > 0) throw new Error(`flush failed: ${errors[0]!.message}`);
        if (restarted) await repair();
      },
      (error) => log.error({ err: error }, 'flush failed; it is tried again'),
    );
    const hourly = startLoop(
      env.RECONCILE_INTERVAL_MS,
      async () => {
        const closed = await closeDays();
        if (closed.length > 0) log.info({ closed }, 'journal days closed');
        await repair();
      },
      (error) => log.error({ err: error }, 'reconciliation failed; it is tried again'),
    );
    releasers.push('flush', async () => {
      await Promise.all([flushLoop.stop(), hourly.stop()]);
      await drain.drain({ wait: true });
    });
  }

  const pruning = startLoop(
    HOUR_MS,
    async () => {
      const removed = await db.audit.prune(env.AUDIT_RETENTION_DAYS);
      if (removed > 0) log.info({ removed }, 'old rows of the audit log removed');
    },
    (error) => log.error({ err: error }, 'the audit log was not pruned; it is tried again'),
  );
  releasers.push('audit log', () => pruning.stop());

  if (env.ENABLE_JOB_SCHEDULER && env.ENABLE_USAGE_AGGREGATION) {
    const scheduler = startScheduler({ intervalMs: env.USAGE_AGGREGATION_INTERVAL, run: () => flush.run({}), log });
    releasers.push('scheduler', () => scheduler.stop());
  }

  const handlers = createHandlers({
    accept,
    track,
    current: createCurrentTotals({ counters, db, now }),
    recent: createRecentEntries({ counters, db }),
    explain: createExplain({ db, drain: flush.drainMerchants }),
    adjust: createAdjust({ db, settle: reconcile.settle, now, fault }),
    reconcile,
    deadLetters: createDeadLetters(db),
    closeDays,
    flush,
    keys: createKeys({ store: db.keys, now }),
    sessions: createSessions({ store: db.sessions, adminKey: env.TALLY_ADMIN_KEY, now }),
    audit: createAuditLog(db.audit),
  });
  const app = createApp({
    name: 'usage-ingest',
    log,
    router: serveContract(ingest, handlers, createAudit({ service: 'usage-ingest', store: db.audit, log })),
    authenticate: createAuthenticate({ env, keys: db.keys, onError: (err) => log.warn({ err }, 'use of keys'), now }),
    env,
    registry,
    readiness,
  });
  return { app, flush, db, redis };
}
