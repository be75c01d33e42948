import { ingest } from '@tally/contracts';
import { type Db, openDb } from '@tally/db';
import {
  type App,
  createApp,
  createAuthenticate,
  createRedis,
  type Health,
  type Log,
  type RedisClient,
  type Releasers,
  redisReady,
  serveContract,
} from '@tally/service';
import { Registry } from 'prom-client';
import { createAccept } from './accept.ts';
import { createCounters } from './counters/counters.ts';
import { createCurrentTotals } from './current.ts';
import { type Durability, durabilityOf } from './durability.ts';
import type { Env } from './env.ts';
import { createDrain } from './flush/drain.ts';
import { createFlush, type Flush } from './flush/flush.ts';
import { startLoop } from './flush/loop.ts';
import { createIngestMetrics } from './metrics.ts';
import { createRecentEntries } from './recent.ts';
import { createHandlers } from './router.ts';
import { createTrack } from './track.ts';

export type IngestService = { app: App; flush: Flush; db: Db; redis: RedisClient };

/** Opens the stores and builds usage-ingest on them; everything opened is pushed to `releasers`. Does not listen. */
export async function createIngestService(
  env: Env,
  { log, releasers, now = Date.now }: { log: Log; releasers: Releasers; now?: () => number },
): Promise<IngestService> {
  const db = await openDb(env.DATABASE_URL, { applicationName: 'usage-ingest' });
  releasers.push('postgres', () => db.close());
  const redis = createRedis(env.REDIS_URL, (error) => log.warn({ err: error }, 'redis'));
  releasers.push('redis', () => redis.disconnect());
  await redisReady(redis);
  const durability = await durabilityOf(redis, db);
  log.info({ durability }, 'durability');

  const registry = new Registry();
  const metrics = createIngestMetrics(registry, durability);
  const counters = createCounters(redis);
  const accept = createAccept({
    counters,
    journal: db.journal,
    retentionDays: env.JOURNAL_RETENTION_DAYS,
    now,
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
    onFlushed({ entries, inserted, durationMs }) {
      metrics.flushed(entries, inserted, durationMs);
      log.debug({ entries, inserted, durationMs: Math.round(durationMs) }, 'flushed');
    },
  });
  const flush = createFlush({ counters, db, drain, now });
  if (env.ENABLE_FLUSH) {
    const loop = startLoop(
      env.FLUSH_INTERVAL_MS,
      async () => {
        const { errors } = await drain.drain({ wait: false });
        metrics.flushErrors.inc(errors.length);
        if (errors.length > 0) throw new Error(`flush failed: ${errors[0]!.message}`);
      },
      (error) => log.error({ err: error }, 'flush failed; it is tried again'),
    );
    releasers.push('flush', async () => {
      await loop.stop();
      await drain.drain({ wait: true });
    });
  }

  const handlers = createHandlers({
    accept,
    track,
    current: createCurrentTotals({ counters, db, now }),
    recent: createRecentEntries({ counters, db }),
    flush,
    keys: db.keys,
  });
  const app = createApp({
    name: 'usage-ingest',
    log,
    router: serveContract(ingest, handlers),
    authenticate: createAuthenticate({
      adminKey: env.TALLY_ADMIN_KEY,
      serviceKey: env.TALLY_SERVICE_KEY,
      findByHash: (hash) => db.keys.findByHash(hash),
      now,
    }),
    maxBodyBytes: env.MAX_BODY_BYTES,
    registry,
    health: () => health(db, redis, durability),
  });
  return { app, flush, db, redis };
}

/** Either store alone is enough to accept usage; without both nothing can be promised. */
async function health(db: Db, redis: RedisClient, durability: Durability): Promise<Health> {
  const [postgres, redisOk] = await Promise.all([
    db.ping().then(
      () => true,
      () => false,
    ),
    redis.status === 'ready'
      ? redis.exists('usage:pending').then(
          () => true,
          () => false,
        )
      : false,
  ]);
  return { ok: postgres || redisOk, degraded: !(postgres && redisOk), postgres, redis: redisOk, durability };
}
