import { HOUR_MS } from '@tally/contracts';
import type { Db } from '@tally/db';
import { failureLog, type Log, type Releasers, startLoop } from '@tally/service';
import type { Counters } from './counters/counters.ts';
import type { OldLayout } from './counters/old-layout.ts';
import type { DeduplicationWindow } from './counters/window.ts';
import type { Derive } from './derive/derive.ts';
import type { Env } from './env.ts';
import type { Drain } from './flush/drain.ts';
import type { Flush } from './flush/flush.ts';
import { startFlusher } from './flush/flusher.ts';
import { startScheduler } from './jobs/scheduler.ts';
import type { IngestMetrics } from './metrics.ts';
import { presentDrift, presentMeterDrift, type Reconcile, type Repair } from './reconcile/index.ts';
import type { CloseDays } from './retention.ts';

type Background = {
  db: Db;
  counters: Counters;
  oldLayout: OldLayout;
  window: DeduplicationWindow;
  derive: Derive;
  deriveMeters: Derive;
  drain: Drain;
  flush: Flush;
  repair: Repair;
  reconcile: Reconcile;
  closeDays: CloseDays;
  /** Called once all totals that were stale at this moment (performance.now) are repaired. */
  onSettled(since: number): void;
  metrics: IngestMetrics;
  log: Log;
  releasers: Releasers;
  now: () => number;
};

/** Starts what usage-ingest does without a caller, as far as the settings enable it; pushes all of it to `releasers`. */
export function startBackground(env: Env, parts: Background): void {
  const { db, derive, deriveMeters, flush, reconcile, log, releasers } = parts;
  if (env.ENABLE_FLUSH) {
    const deriving = derive.start(env.DERIVE_INTERVAL_MS, log);
    releasers.push('derive', () => deriving.stop());
    const derivingMeters = deriveMeters.start(env.DERIVE_INTERVAL_MS, log);
    releasers.push('meters', () => derivingMeters.stop());
    const flusher = startFlusher({
      ...parts,
      intervalMs: env.FLUSH_INTERVAL_MS,
      hourlyMs: env.RECONCILE_INTERVAL_MS,
      settle: reconcile.settle,
      reconcile: () => closeAndReconcile(parts),
    });
    releasers.push('flush', () => flusher.stop());
  }

  const pruning = startLoop(
    HOUR_MS,
    async () => {
      const removed = await db.audit.prune(env.AUDIT_RETENTION_DAYS);
      if (removed > 0) log.info({ removed }, 'old rows of the audit log removed');
    },
    failureLog(log, 'the audit log was not pruned; it is tried again'),
  );
  releasers.push('audit log', () => pruning.stop());

  if (env.ENABLE_JOB_SCHEDULER && env.ENABLE_USAGE_AGGREGATION) {
    const scheduler = startScheduler({ intervalMs: env.USAGE_AGGREGATION_INTERVAL, run: () => flush.run({}), log });
    releasers.push('scheduler', () => scheduler.stop());
  }
}

/** Closes old days, compares all stored forms of what changed, repairs them, and reports the drift. */
async function closeAndReconcile({ db, closeDays, reconcile, metrics, log }: Background): Promise<void> {
  const closed = await closeDays();
  if (closed.length > 0) log.info({ closed }, 'journal days closed');
  const started = performance.now();
  const report = await reconcile.repairChanged();
  metrics.reconciled(report.drift.length + report.meters.length, performance.now() - started);
  metrics.waitingDeadLetters.set(await db.deadLetters.count());
  if (!report.balanced)
    log.error(
      {
        drift: report.drift.slice(0, 20).map((each) => presentDrift(each)),
        meters: report.meters.slice(0, 20).map(presentMeterDrift),
      },
      'drift found',
    );
}
