import { type Coverage, type Day, dayOf } from '@tally/contracts';
import type { IngestClient } from '@tally/contracts/client';
import { coalesceBy } from '@tally/service';

export type Freshness = {
  /**
   * Makes sure that what was acknowledged before the call is in Postgres, and says what an answer that reads Postgres
   * afterwards covers. Live and stored can so never overlap.
   */
  cover(range: { startDate: Day; endDate: Day; merchantIds?: readonly string[] | undefined }): Promise<Coverage>;
  /** Flushes what is pending now: of some merchants, or of all. */
  refresh(
    merchantIds?: readonly string[],
  ): Promise<{ recordsAggregated: number; complete: boolean; refreshedAt: string }>;
};

/** Closed days still get late entries through Redis, so a question about them asks for what is pending too. */
export function createFreshness({
  ingest,
  lastFlushAt,
  now,
}: {
  ingest: IngestClient;
  /** When Postgres last counted anything. */
  lastFlushAt: () => Promise<string | null>;
  now: () => number;
}): Freshness {
  // Many ask at once: whoever asks while a flush is under way shares the next one.
  const drain = coalesceBy(async (merchantIds: readonly string[] | undefined) => {
    // A longer list than one request takes is answered by flushing all.
    const some = merchantIds && merchantIds.length <= 1000 ? { merchantIds: [...merchantIds] } : {};
    return ingest.flush.drain.mutate(some);
  });

  return {
    async cover({ startDate, endDate, merchantIds }) {
      const today = dayOf(now());
      const dataSource = endDate < today ? 'cache' : startDate >= today ? 'live' : 'mixed';
      try {
        const { complete, asOf } = await drain(merchantIds);
        return { dataSource, asOf, complete };
      } catch {
        // Postgres alone still answers, up to its last flush at best.
        return {
          dataSource: dataSource === 'live' ? 'none' : 'cache',
          asOf: await lastFlushAt().catch(() => null),
          complete: false,
        };
      }
    },
    async refresh(merchantIds) {
      const { recordsAggregated, complete, asOf } = await drain(merchantIds);
      return { recordsAggregated, complete, refreshedAt: asOf };
    },
  };
}
