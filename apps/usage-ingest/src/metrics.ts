import type { FoldedLine } from '@tally/db';
import { Counter, Gauge, Histogram, type Registry } from 'prom-client';
import type { Durability } from './durability.ts';

export type IngestMetrics = {
  fallbacks: Counter;
  windowSeconds: Gauge;
  windowBytes: Gauge;
  flushErrors: Counter;
  deadLetters: Counter;
  conflicts: Counter;
  /** Counts events by the dimensions that rollups have under `(other)`. */
  folded(lines: readonly FoldedLine[]): void;
  waitingDeadLetters: Gauge;
  lagSeconds: Gauge;
  durability(durability: Durability): void;
  inUse(store: 'postgres' | 'redis', isUsed: boolean): void;
  /** Shows how many shards have totals to repair, read on each scrape. */
  showUnrepaired(count: () => Promise<number>): void;
  /** `drift`: the number of drifts. */
  reconciled(drift: number, durationMs: number): void;
  flushed(entries: number, inserted: number, durationMs: number): void;
};

/** The metrics of usage-ingest, beside those of every service. */
export function createIngestMetrics(register: Registry): IngestMetrics {
  const registers = [register];
  const durability = new Gauge({
    name: 'tally_redis_durability_info',
    help: 'What an acknowledgement survives, by the settings of Redis when it was last connected.',
    labelNames: ['level'],
    registers,
  });
  const inUse = new Gauge({
    name: 'tally_store_in_use',
    help: '1 while batches are given to the store, 0 while it hangs or must not be used.',
    labelNames: ['store'],
    registers,
  });
  for (const store of ['postgres', 'redis']) inUse.set({ store }, 1);
  const driftRows = new Gauge({
    name: 'tally_reconcile_drift',
    help: 'Numbers and rollups of meters that differed at the last reconciliation; it must be 0.',
    registers,
  });
  const lastReconciled = new Gauge({
    name: 'tally_reconcile_last_timestamp_seconds',
    help: 'When all stored forms were last compared.',
    registers,
  });
  const reconcileSeconds = new Gauge({
    name: 'tally_reconcile_duration_seconds',
    help: 'How long the last hourly reconciliation took.',
    registers,
  });
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
  const lagSeconds = new Gauge({
    name: 'tally_flush_lag_seconds',
    help: 'Age of the oldest entry that waits to be flushed; NaN while it is unknown.',
    registers,
  });
  lagSeconds.set(Number.NaN);
  const overflow = new Counter({
    name: 'tally_dimension_overflow_total',
    help: 'Events that rollups count under (other): a dimension of a merchant has too many values on a day.',
    labelNames: ['dimension'],
    registers,
  });
  return {
    folded(lines) {
      for (const { dimensions } of lines) for (const dimension of dimensions) overflow.inc({ dimension });
    },
    fallbacks: new Counter({
      name: 'tally_ingest_detours_total',
      help: 'Batches that Redis could not take and that were written directly to Postgres.',
      registers,
    }),
    windowSeconds: new Gauge({
      name: 'tally_deduplication_window_seconds',
      help: 'How long Redis recognises a repeated event id. Later repeats are found by the journal.',
      registers,
    }),
    windowBytes: new Gauge({
      name: 'tally_deduplication_window_bytes',
      help: 'Memory of Redis that event ids take.',
      registers,
    }),
    flushErrors: new Counter({
      name: 'tally_flush_errors_total',
      help: 'Shards whose flush failed; it is tried again.',
      registers,
    }),
    deadLetters: new Counter({
      name: 'tally_dead_letters_total',
      help: 'Entries that Postgres refused and that became dead letters.',
      registers,
    }),
    conflicts: new Counter({
      name: 'tally_id_conflicts_total',
      help: 'Events that were not counted because their id stands for another event: see usage.conflicts.',
      registers,
    }),
    waitingDeadLetters: new Gauge({
      name: 'tally_dead_letters_waiting',
      help: 'Dead letters that nobody has resolved.',
      registers,
    }),
    lagSeconds,
    durability({ level }) {
      durability.reset();
      durability.set({ level }, 1);
    },
    inUse: (store, isUsed) => inUse.set({ store }, isUsed ? 1 : 0),
    showUnrepaired(count) {
      new Gauge({
        name: 'tally_totals_unrepaired_shards',
        help: 'Shards whose totals are still to be repaired after a restart of Redis; NaN while Redis is unavailable.',
        registers,
        async collect() {
          this.set(await count().catch(() => Number.NaN));
        },
      });
    },
    reconciled(drift, durationMs) {
      driftRows.set(drift);
      reconcileSeconds.set(durationMs / 1000);
      lastReconciled.set(Date.now() / 1000);
    },
    flushed(entries, inserted, durationMs) {
      entriesTotal.inc({ result: 'counted' }, inserted);
      entriesTotal.inc({ result: 'repeated' }, entries - inserted);
      seconds.observe(durationMs / 1000);
    },
  };
}
