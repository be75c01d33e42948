import { createFairQueue, type FairQueue } from '@tally/service';

const EXPORTS_WAITING_PER_CALLER = 10;
const EXPORT_WAIT_MS = 120_000;

/** Shares the connections to Postgres so that queries, and the labels of exports, always find some. */
export function shareConnections(poolSize: number, exportsAtOnce: number): { queries: FairQueue; exports: FairQueue } {
  const places = Math.min(exportsAtOnce, Math.max(1, poolSize - 2));
  return {
    // A summary reads over two connections.
    queries: createFairQueue({ places: Math.max(1, Math.floor((poolSize - places - 1) / 2)) }),
    exports: createFairQueue({ places, waitingPerCaller: EXPORTS_WAITING_PER_CALLER, waitMs: EXPORT_WAIT_MS }),
  };
}
