import { type Batch, type BatchLimits, batchesOf, itemsOf, printBatch } from './batch.ts';
import type { Group } from './group.ts';
import type { Merger } from './merge.ts';
import type { Position, Spool } from './spool/spool.ts';

export type Sealer = {
  /** Groups taken from the merger that are not yet in a counted batch. */
  readonly held: { entries: number; bytes: number };
  /** Moves all open groups into the spool, pausing between writes; returns the batches, once they may be sent. */
  seal(): Promise<Batch[]>;
  /** The same, synchronously, for a process that ends. */
  sealNow(): Batch[];
  /** The oldest groups only; for a spool without records of its own. */
  spill(): Batch[];
  /** Stores a batch from memory, unchanged and under the same ids. */
  keep(batch: Batch): void;
};

type Sealing = { batches: Batch[]; next: number; covered: Position; counts: boolean; entries: number; bytes: number };

/**
 * Makes batches on disk. They count from one frame on, the seal, in place of the records they sum: a process killed
 * before it leaves records, one killed after it leaves batches, never both. Failures are retried.
 */
export function createSealer(spool: Spool, merger: Merger, limits: BatchLimits): Sealer {
  let current: Sealing | undefined;

  function begin(): Sealing {
    const covered = spool.position();
    const groups = merger.take();
    const batches = batchesOf(groups, limits);
    const bytes = batches.reduce((sum, batch) => sum + batch.bytes, 0);
    return { batches, next: 0, covered, counts: false, entries: groups.length, bytes };
  }

  function putNext(sealing: Sealing): void {
    put(sealing.batches[sealing.next]!);
    sealing.next++;
  }

  function put(batch: Batch): void {
    const ref = spool.put(printBatch(batch.kind, itemsOf((batch.source as { groups: Group[] }).groups)));
    batch.source = { ref };
  }

  function commit(sealing: Sealing): void {
    if (!sealing.counts) spool.seal(sealing.batches.length, sealing.covered);
    sealing.counts = true;
  }

  function finished(sealing: Sealing): Batch[] {
    current = undefined;
    for (const batch of sealing.batches) batch.bytes = 0;
    return sealing.batches;
  }

  return {
    get held() {
      return { entries: current?.entries ?? 0, bytes: current?.bytes ?? 0 };
    },

    async seal() {
      const sealing = current ?? begin();
      current = sealing;
      while (sealing.next < sealing.batches.length) {
        putNext(sealing);
        // A record waits at most for the writing of one batch.
        await new Promise((resolve) => setTimeout(resolve, 0));
      }
      commit(sealing);
      await spool.sync();
      return current === sealing ? finished(sealing) : [];
    },

    sealNow() {
      const done: Batch[] = [];
      while (current !== undefined || merger.size > 0) {
        const sealing = current ?? begin();
        current = sealing;
        while (sealing.next < sealing.batches.length) putNext(sealing);
        commit(sealing);
        spool.syncNow();
        done.push(...finished(sealing));
      }
      return done;
    },

    spill() {
      const covered = spool.position();
      const batches = batchesOf(merger.take(limits.entries), limits);
      const entries = batches.reduce((sum, batch) => sum + batch.entries, 0);
      current = { batches, next: 0, covered, counts: false, entries, bytes: 0 };
      const sealing = current;
      while (sealing.next < sealing.batches.length) putNext(sealing);
      commit(sealing);
      spool.syncNow();
      return finished(sealing);
    },

    keep(batch) {
      if ('ref' in batch.source) return;
      const covered = spool.position();
      put(batch);
      spool.seal(1, covered);
    },
  };
}
