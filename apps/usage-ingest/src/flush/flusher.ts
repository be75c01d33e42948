import { randomUUID } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import { failureLog, type Log, type Loop, startLoop } from '@tally/service';
import type { Counters } from '../counters/counters.ts';
import type { OldLayout } from '../counters/old-layout.ts';
import type { DeduplicationWindow } from '../counters/window.ts';
import type { IngestMetrics } from '../metrics.ts';
import type { Repair } from '../reconcile/index.ts';
import type { Drain } from './drain.ts';
import type { Flush } from './flush.ts';

export type FlusherOptions = {
  intervalMs: number;
  hourlyMs: number;
  counters: Counters;
  oldLayout: OldLayout;
  drain: Drain;
  flush: Pick<Flush, 'lagMs' | 'isBehind'>;
  repair: Repair;
  window: DeduplicationWindow;
  /** Repairs totals that are known to be stale. */
  settle(): Promise<unknown>;
  /** Called once all totals that were stale at this moment (performance.now) are repaired. */
  onSettled(since: number): void;
  /** The hourly comparison of all stored forms. */
  reconcile(): Promise<void>;
  now: () => number;
  metrics: IngestMetrics;
  log: Log;
};

/** The first pause before a flush is repeated for merchants that were being corrected; it doubles each time. */
const LEFT_OUT_MS = 20;
/** The interval of checks for lost totals and of the memory of ids. */
const LOOK_MS = 1_000;

/**
 * Resolves once the flush is no longer behind, or after `mostMs`: a comparison reads for every group of merchants what
 * waits in their shard, and takes locks that the flush needs. Beside a large backlog both would be slow.
 */
export async function caughtUp({ isBehind }: Pick<Flush, 'isBehind'>, mostMs: number, stopping: () => boolean) {
  const began = performance.now();
  while (!stopping() && performance.now() - began < mostMs && (await isBehind())) await pause(LOOK_MS);
}

/**
 * Runs the background work of a flusher process: the flush, repairs, the deduplication window and the hourly
 * reconciliation. Each has its own loop, so the flush never waits for the others.
 */
export function startFlusher(options: FlusherOptions): Loop {
  const { counters, oldLayout, drain, flush, repair, window, metrics, log } = options;
  const name = randomUUID();
  let stopping = false;
  const isStopping = () => stopping;
  const loop = (what: string, intervalMs: number, work: () => Promise<void>) =>
    startLoop(intervalMs, work, failureLog(log, `${what} failed; it is tried again`));

  const flushOnce = async () => {
    // Each flusher holds at most its part of the shards, so that the others have work. A full Redis refuses the report,
    // and only a flush makes room in it.
    const flushers = await counters.reportFlusher(name, options.now()).catch(() => 1);
    const limit = Math.ceil(counters.keys.shards / Math.max(1, flushers));
    const { errors, leftOut } = await drain.drain({ wait: false, limit });
    metrics.flushErrors.inc(errors.length);
    metrics.lagSeconds.set((await flush.lagMs()) / 1000);
    if (errors.length > 0) throw new Error(`flush failed: ${errors[0]!.message}`);
    return leftOut;
  };
  /** A repair corrects each merchant for some milliseconds: its events need not wait for the next interval. */
  const flushSoonAgain = async () => {
    let pauseMs = LEFT_OUT_MS;
    while ((await flushOnce()) && pauseMs < options.intervalMs && !stopping) {
      await pause(pauseMs);
      pauseMs *= 2;
    }
  };

  const loops = [
    loop('flush', options.intervalMs, async () => {
      try {
        await flushSoonAgain();
      } catch (error) {
        // The pending events are unknown until Redis has answered.
        metrics.lagSeconds.set(Number.NaN);
        throw error;
      }
    }),
    loop('repair of totals', options.intervalMs, async () => {
      const since = performance.now();
      const { errors } = await oldLayout.drain();
      // Repairs take the locks that a flush with a backlog needs; until then, readers distrust these totals.
      if (!(await flush.isBehind())) {
        await options.settle();
        options.onSettled(since);
      }
      if (errors.length > 0) throw new Error(`${errors[0]!.key}: ${errors[0]!.message}`);
    }),
    loop('marks of wrong totals', LOOK_MS, repair.distrust),
    loop('repair after a restart of redis', LOOK_MS, async () => {
      if (await flush.isBehind()) return;
      const repaired = await repair.afterRestart(isStopping);
      if (repaired > 0) log.info({ merchants: repaired }, 'totals of redis repaired');
    }),
    loop('deduplication window', LOOK_MS, async () => {
      const { windowMs, bytes } = await window.look();
      metrics.windowSeconds.set(windowMs / 1000);
      metrics.windowBytes.set(bytes);
    }),
    loop('reconciliation', options.hourlyMs, async () => {
      await caughtUp(flush, options.hourlyMs, isStopping);
      if (!stopping) await options.reconcile();
    }),
  ];
  return {
    async stop() {
      stopping = true;
      await Promise.all(loops.map((each) => each.stop()));
      await drain.drain({ wait: true });
    },
  };
}
