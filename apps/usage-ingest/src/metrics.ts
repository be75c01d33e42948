import { Counter, Gauge, Histogram, type Registry } from 'prom-client';
import type { Durability } from './durability.ts';

export type IngestMetrics = {
  detours: Counter;
  flushErrors: Counter;
  flushed(entries: number, inserted: number, durationMs: number): void;
};

/** What usage-ingest shows on /metrics beside what every service shows. */
export function createIngestMetrics(register: Registry, durability: Durability): IngestMetrics {
  const registers = [register];
  new Gauge({
    name: 'tally_redis_durability_info',
    help: 'What an acknowledgement survives, by the settings of Redis at start.',
    labelNames: ['level'],
    registers,
  }).set({ level: durability.level }, 1);
  const entriesTotal = new Counter({
    name: 'tally_flush_entries_total',
    help: 'Entries read from the streams by the flush.',
    labelNames: ['result'],
    registers,
  });
  const seconds = new Histogram({
    name: 'tally_flush_duration_seconds',
    help: 'Time to bring one piece to Postgres.',
    buckets: [0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30],
    registers,
  });
  return {
    detours: new Counter({
      name: 'tally_ingest_detours_total',
      help: 'Batches that Redis could not take and that went directly to Postgres.',
      registers,
    }),
    flushErrors: new Counter({
      name: 'tally_flush_errors_total',
      help: 'Merchants whose flush failed; it is tried again.',
      registers,
    }),
    flushed(entries, inserted, durationMs) {
      entriesTotal.inc({ result: 'counted' }, inserted);
      entriesTotal.inc({ result: 'repeated' }, entries - inserted);
      seconds.observe(durationMs / 1000);
    },
  };
}
