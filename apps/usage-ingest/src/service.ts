import { randomUUID } from 'node:crypto';
import { ingest } from '@tally/contracts';
import type { Db } from '@tally/db';
import {
  type App,
  contractRoutes,
  createApp,
  createAudit,
  createAuthenticate,
  createFairQueue,
  createKeyMirror,
  failureLog,
  type Log,
  type RedisClient,
  type Releasers,
  serveContract,
  startTelemetry,
} from '@tally/service';
import { Registry } from 'prom-client';
import { createAccept } from './accept.ts';
import { createAdjust } from './adjust.ts';
import { createAuditLog } from './audit-log.ts';
import { startBackground } from './background.ts';
import { createBudgetService } from './budgets/index.ts';
import { createChanges } from './changes.ts';
import { createConflicts } from './conflicts.ts';
import { type Counters, createCounters } from './counters/counters.ts';
import type { RedisKeys } from './counters/keys.ts';
import { createOldLayout } from './counters/old-layout.ts';
import { createDeduplicationWindow, type DeduplicationWindow } from './counters/window.ts';
import { createCurrentTotals } from './current.ts';
import { createDeadLetters } from './dead-letters.ts';
import { createDerive, type Derive } from './derive/derive.ts';
import type { Env } from './env.ts';
import { createEraseUser } from './erase.ts';
import { createExplain } from './explain.ts';
import { type FaultPoint, faultsOf } from './faults.ts';
import { createDrain } from './flush/drain.ts';
import { createFlush, type Flush } from './flush/flush.ts';
import { createKeys } from './keys.ts';
import { createDeriveMeters } from './meters/derive-meters.ts';
import { createMeters } from './meters/meters.ts';
import { createRegistry } from './meters/registry.ts';
import { createIngestMetrics } from './metrics.ts';
import { openStores } from './open-stores.ts';
import { createPending } from './pending.ts';
import { createPricedByClass } from './prices/classes.ts';
import { createPrices } from './prices/prices.ts';
import { createPriceRegistry } from './prices/registry.ts';
import { createRerate } from './prices/rerate.ts';
import { createRecentEntries } from './recent.ts';
import { createReconcile, createRepair, type Reconcile, type Repair } from './reconcile/index.ts';
import { createCloseDays } from './retention.ts';
import { createHandlers } from './router.ts';
import { createRunningTotals } from './running-totals.ts';
import { createSessions } from './sessions.ts';
import { createSources } from './sources/index.ts';
import type { Source } from './sources/source.ts';
import { createTrack } from './track.ts';
import { createVoidEvent } from './void.ts';

const DIRECT_WAIT_MS = 300_000;

export type IngestService = {
  app: App;
  flush: Flush;
  derive: Derive;
  deriveMeters: Derive;
  db: Db;
  redis: RedisClient;
  keys: RedisKeys;
  window: DeduplicationWindow;
  repair: Repair;
  reconcile: Reconcile;
};

export type IngestOptions = {
  log: Log;
  releasers: Releasers;
  now?: () => number;
  fault?: FaultPoint;
  /** Sources beside the built-in ones. */
  sources?: readonly Source[];
  /** A flusher answers health and metrics only, and is ready while both stores are. */
  isFlusher?: boolean;
};

/** Opens the stores and builds usage-ingest on them; pushes everything opened to `releasers`. Does not listen. */
export async function createIngestService(env: Env, options: IngestOptions): Promise<IngestService> {
  const { log, releasers, now = Date.now, isFlusher = false } = options;
  const registry = new Registry();
  await startTelemetry(env, { service: 'usage-ingest', registry, releasers });
  const metrics = createIngestMetrics(registry);
  const { db, redis, keys, shards, stores, directWrites, readiness } = await openStores(env, {
    log,
    releasers,
    metrics,
    isFlusher,
    now,
  });
  // A clock that was given stands for all clocks.
  const agreedNow = options.now ? async () => now() : async () => Math.min(now(), (await db.look()).at);
  const fault = options.fault ?? faultsOf(env.TALLY_FAULT);
  const window = createDeduplicationWindow(redis, keys, env.DEDUPLICATION_MEMORY_SHARE);
  const limits = { typesPerDay: env.MAX_METRIC_TYPES_PER_DAY, waitReplicas: env.REDIS_WAIT_REPLICAS };
  const unguarded = createCounters(redis, keys, limits, window);
  const counters: Counters = {
    ...unguarded,
    record: (...batch) => stores.redis.run(() => unguarded.record(...batch)),
    readDays: (shard, days) => stores.redis.run(() => unguarded.readDays(shard, days)),
  };
  const priceRegistry = createPriceRegistry({ store: db.prices, redis });
  await priceRegistry.refresh().catch((error: unknown) => log.warn({ err: error }, 'starting without a price list'));
  const refreshing = priceRegistry.start(failureLog(log, 'the price list was not refreshed', { level: 'warn' }));
  releasers.push('price list', () => refreshing.stop());
  const sawFallback = failureLog(log, 'a store could not take a batch; the other one is tried', { level: 'warn' });
  const oldLayout = createOldLayout(redis, db.journal);
  const sawConflicts = (count: number) => {
    if (count === 0) return;
    metrics.conflicts.inc(count);
    log.warn({ conflicts: count }, 'events were not counted: their ids stand for other events (usage.conflicts)');
  };
  const meterRegistry = createRegistry({ db, redis, keys });
  const { scales } = meterRegistry;
  const drainAll = async () => (await flush.drainAll()).errors.length === 0;
  const budgets = createBudgetService({
    db,
    redis,
    accept: { record: (batch) => accept.record(batch) },
    drain: drainAll,
    flushSoon: (merchantIds) => flush.flushSoon(merchantIds),
    log,
    now,
  });
  await budgets.refresh().catch((error: unknown) => log.warn({ err: error }, 'starting without budgets'));
  // Of ten connections, four are for events that are written at once, and four for reads of two each: flushes always
  // find one.
  const shareOf = (share: number) => Math.max(1, Math.floor(env.POSTGRES_POOL_SIZE * share));
  // The edge limits what a caller sends at once, and a batch refused here would only be sent again.
  const writing = createFairQueue({
    places: shareOf(0.4),
    waitingPerCaller: Number.MAX_SAFE_INTEGER,
    waitMs: DIRECT_WAIT_MS,
  });
  const queue = createFairQueue({ places: shareOf(0.2) });
  const accept = createAccept({
    registry: meterRegistry,
    counters,
    journal: {
      append: (callerId, batch) => writing(callerId, () => stores.postgres.run(() => db.journal.append(batch))),
      predictFolded: db.journal.predictFolded,
    },
    retentionDays: env.JOURNAL_RETENTION_DAYS,
    priceList: priceRegistry.current,
    now,
    fault,
    isFull: stores.isRedisFull,
    onFallback(error) {
      metrics.fallbacks.inc();
      sawFallback(error);
    },
    onConflicts: sawConflicts,
    onFolded: metrics.folded,
    onAccepted: (lines) => void budgets.note(lines),
    writeDirectly: directWrites.track,
  });
  const derive = createDerive({ db, register: registry, sliceEvents: env.DERIVE_SLICE_EVENTS, now, agreedNow });
  const deriveMeters = createDeriveMeters({
    db,
    register: registry,
    sliceEvents: env.DERIVE_SLICE_EVENTS,
    quarterHoursDays: env.METER_QUARTER_HOURS_DAYS,
    agreedNow,
  });
  const drain = createDrain({
    counters,
    journal: db.journal,
    leases: db.shards,
    problem: shards.problem,
    holder: randomUUID(),
    pieceEntries: env.FLUSH_PIECE_ENTRIES,
    now,
    fault,
    async catchUp() {
      await derive.catchUp();
      await deriveMeters.catchUp();
    },
    onError: readiness.sawError,
    onDeadLetter(line, error) {
      metrics.deadLetters.inc();
      log.error({ err: error, merchantId: line.merchant_id, date: line.date, entryId: line.id }, 'dead letter');
    },
    onFlushed({ entries, inserted, conflicts, folded, durationMs }) {
      sawConflicts(conflicts.length);
      metrics.folded(folded);
      metrics.flushed(entries, inserted, durationMs);
      log.debug({ entries, inserted, durationMs: Math.round(durationMs) }, 'flushed');
    },
  });
  const flush = createFlush({ counters, oldLayout, db, drain, now });
  const reading = budgets.start();
  releasers.push('budgets', () => reading.stop());
  const pending = createPending({ counters, oldLayout, db });
  const totals = createRunningTotals({
    counters,
    pending,
    db,
    flushSoon: flush.flushSoon,
    mayBeBehind: directWrites.mayBeBehind,
    now,
  });
  const track = createTrack({ accept, registry: meterRegistry, totals, mergeMs: env.TRACK_MERGE_MS, now });
  const repair = createRepair({ counters, pending, db, now, fault });
  metrics.showUnrepaired(repair.unrepaired);
  const reconcile = createReconcile({
    counters,
    oldLayout,
    pending,
    repair,
    db,
    drain: flush.drainAll,
    flushOf: flush.flushSoon,
    isBehind: flush.isBehind,
    now,
  });
  const deriveAll = async () => {
    await derive.run();
    await deriveMeters.run();
  };
  const closeDays = createCloseDays({
    db,
    derive: deriveAll,
    retentionDays: env.JOURNAL_RETENTION_DAYS,
    archiveFolder: env.ARCHIVE_FOLDER,
    onArchiveError: (day, err) => log.error({ err, day }, 'a day was not archived; its events stay in the journal'),
    agreedNow,
  });
  startBackground(env, {
    ...{ db, counters, oldLayout, window, derive, deriveMeters, drain, flush, repair, reconcile, closeDays },
    ...{ onSettled: directWrites.settled, metrics, log, releasers, now },
  });

  const others = options.sources ?? [];
  const sources = createSources({ env, db, accept, scales, flushSoon: flush.flushSoon, others, registry, log, now });
  releasers.push('sources', () => sources.stop());
  const adjust = createAdjust({ db, scales, repair, flushSoon: flush.flushSoon, now, fault });
  const handlers = createHandlers({
    accept,
    track,
    current: createCurrentTotals({ totals, scales, now }),
    changes: createChanges(db),
    conflicts: createConflicts({ db, scales, flushSoon: flush.flushSoon }),
    recent: createRecentEntries({
      scales,
      counters,
      pending,
      db: { events: { ...db.events, recent: (...asked) => stores.postgres.run(() => db.events.recent(...asked)) } },
      flushSoon: flush.flushSoon,
    }),
    explain: createExplain({ db, scales, flushSoon: flush.flushSoon }),
    queue,
    adjust,
    voidEvent: createVoidEvent({
      db,
      adjust,
      scales,
      flushSoon: flush.flushSoon,
      retentionDays: env.JOURNAL_RETENTION_DAYS,
      now,
    }),
    reconcile,
    deadLetters: createDeadLetters(db),
    eraseUser: createEraseUser({ db, flushSoon: flush.flushSoon }),
    closeDays,
    flush,
    keys: createKeys({ store: db.keys, redis, now }),
    meters: createMeters({ db, registry: meterRegistry, drain: flush.drainAll }),
    scales,
    sessions: createSessions({ store: db.sessions, redis, adminKey: env.TALLY_ADMIN_KEY, now }),
    rerate: createRerate({
      db,
      registry: priceRegistry,
      meters: meterRegistry,
      repair,
      drain: drainAll,
    }),
    prices: createPrices({ store: db.prices, registry: priceRegistry }),
    pricedByClass: createPricedByClass({ store: db.prices, registry: priceRegistry }),
    budgets,
    audit: createAuditLog(db.audit),
    sources,
  });
  const app = createApp({
    name: isFlusher ? 'usage-flusher' : 'usage-ingest',
    log,
    router: isFlusher
      ? serveContract({}, {})
      : serveContract(ingest, handlers, createAudit({ service: 'usage-ingest', store: db.audit, log })),
    routes: isFlusher ? [] : [...contractRoutes('usage-ingest'), ...sources.routes],
    authenticate: createAuthenticate({
      env,
      keys: db.keys,
      mirror: createKeyMirror(redis),
      onError: (err) => log.warn({ err }, 'the last use of keys was not saved'),
      now,
    }),
    env,
    registry,
    readiness,
  });
  sources.start();
  return { app, flush, derive, deriveMeters, db, redis, keys, window, repair, reconcile };
}
