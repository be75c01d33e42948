import type { RealtimeType } from '@tally/contracts';
import { Counter, Gauge, Histogram, type Registry } from 'prom-client';
import type { Reconciled } from './realtime/reconcile.ts';

export type EngineMetrics = {
  /** Records a finished attempt of a scheduled job. */
  jobEnded(job: string, result: 'completed' | 'failed', durationMs: number): void;
  failedJobs: Gauge;
  runEnded(kind: string, status: string): void;
  pointsStored(type: RealtimeType, points: number): void;
  watchers: Gauge;
  realtimeSaved(): void;
  realtimeReconciled(outcome: Reconciled): void;
  customEnded(outcome: string, durationMs: number): void;
};

/** Registers the metrics of metrics-engine. */
export function createEngineMetrics(register: Registry): EngineMetrics {
  const registers = [register];
  const jobs = new Counter({
    name: 'tally_engine_job_runs_total',
    help: 'Attempts of scheduled jobs that ended.',
    labelNames: ['job', 'result'],
    registers,
  });
  const jobSeconds = new Histogram({
    name: 'tally_engine_job_duration_seconds',
    help: 'Time of an attempt of a scheduled job.',
    labelNames: ['job'],
    buckets: [0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600],
    registers,
  });
  const completed = new Gauge({
    name: 'tally_engine_job_last_completed_timestamp_seconds',
    help: 'When this instance last completed a scheduled job.',
    labelNames: ['job'],
    registers,
  });
  const runs = new Counter({
    name: 'tally_rollup_runs_total',
    help: 'Rollup runs that ended.',
    labelNames: ['kind', 'status'],
    registers,
  });
  const points = new Counter({
    name: 'tally_realtime_points_total',
    help: 'Points of realtime metrics that were stored.',
    labelNames: ['type'],
    registers,
  });
  const saved = new Gauge({
    name: 'tally_realtime_saved_timestamp_seconds',
    help: 'When this instance last saved realtime metrics to Postgres.',
    registers,
  });
  const drift = new Gauge({
    name: 'tally_realtime_drift',
    help: 'Realtime values that the last reconciliation found different from their source, and corrected.',
    labelNames: ['source'],
    registers,
  });
  const reconciled = new Gauge({
    name: 'tally_realtime_reconciled_timestamp_seconds',
    help: 'When this instance last reconciled realtime metrics.',
    registers,
  });
  const custom = new Counter({
    name: 'tally_custom_metric_computations_total',
    help: 'Custom metrics that were computed or refused, by how that ended: ok or the code of the error.',
    labelNames: ['outcome'],
    registers,
  });
  const customSeconds = new Histogram({
    name: 'tally_custom_metric_duration_seconds',
    help: 'Time to compute or refuse a custom metric.',
    buckets: [0.01, 0.05, 0.1, 0.5, 1, 5, 15],
    registers,
  });
  const failedJobs = new Gauge({
    name: 'tally_engine_failed_jobs',
    help: 'Scheduled jobs that failed after all their attempts and wait to be retried (jobs.failed, jobs.retry).',
    registers,
  });
  // Unknown until Redis has answered, which is not 0.
  failedJobs.set(Number.NaN);
  const seconds = () => Date.now() / 1000;
  return {
    jobEnded(job, result, durationMs) {
      jobs.inc({ job, result });
      jobSeconds.observe({ job }, durationMs / 1000);
      if (result === 'completed') completed.set({ job }, seconds());
    },
    failedJobs,
    runEnded: (kind, status) => runs.inc({ kind, status }),
    watchers: new Gauge({
      name: 'tally_realtime_watchers',
      help: 'Callers that watch a realtime metric here.',
      registers,
    }),
    pointsStored: (type, count) => points.inc({ type }, count),
    realtimeSaved: () => saved.set(seconds()),
    realtimeReconciled({ restored, corrected }) {
      drift.set({ source: 'copies' }, restored);
      drift.set({ source: 'usage' }, corrected.length);
      reconciled.set(seconds());
    },
    customEnded(outcome, durationMs) {
      custom.inc({ outcome });
      customSeconds.observe(durationMs / 1000);
    },
  };
}
