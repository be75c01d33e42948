import { type Coverage, type Day, dayOf } from '@tally/contracts';
import type { IngestClient } from '@tally/contracts/client';
import type { Db } from '@tally/db';
import { coalesceBy } from '@tally/service';

type Names = readonly string[] | undefined;

/** The days, merchants and values of a query. */
type Scope = {
  startDate: Day;
  endDate: Day;
  merchantIds?: Names;
  userIds?: Names;
  apiKeys?: Names;
  models?: Names;
  providers?: Names;
  teams?: Names;
};

const isFiltered = ({ userIds, apiKeys, models, providers, teams }: Scope): boolean =>
  [userIds, apiKeys, models, providers, teams].some((names) => names && names.length > 0);

export type Freshness = {
  /**
   * Makes sure that what was acknowledged before the call is in Postgres, and says what an answer that reads Postgres
   * afterwards covers. Live and stored can so never overlap.
   */
  cover(scope: Scope): Promise<Coverage>;
  /** Flushes what is pending now: of some merchants, or of all. */
  refresh(
    merchantIds?: readonly string[],
  ): Promise<{ recordsAggregated: number; complete: boolean; refreshedAt: string }>;
};

/** Closed days still get late entries through Redis, so a question about them asks for what is pending too. */
export function createFreshness({
  ingest,
  lastFlushAt,
  overflowed,
  now,
}: {
  ingest: IngestClient;
  /** When Postgres last counted anything. */
  lastFlushAt: () => Promise<string | null>;
  /** Whether one of these dimensions had more values on a day than rollups hold. */
  overflowed: Db['usage']['overflowed'];
  now: () => number;
}): Freshness {
  // Many ask at once: whoever asks while a flush is under way shares the next one.
  const drain = coalesceBy(async (merchantIds: readonly string[] | undefined) => {
    // A longer list than one request takes is answered by flushing all.
    const some = merchantIds && merchantIds.length <= 1000 ? { merchantIds: [...merchantIds] } : {};
    return ingest.flush.drain.mutate(some);
  });

  /** A filter names values; those that rollups do not hold are found nowhere in them. */
  const overflowOf = coalesceBy(async ({ startDate, endDate, merchantIds, ...filters }: Scope) => {
    const lists = {
      // A team is found by the user and the key of a row.
      user_id: filters.userIds?.length ? filters.userIds : filters.teams,
      api_key: filters.apiKeys?.length ? filters.apiKeys : filters.teams,
      model: filters.models,
      provider: filters.providers,
    };
    const dimensions = (Object.keys(lists) as (keyof typeof lists)[]).filter((name) => lists[name]?.length);
    const found = await overflowed({ startDate, endDate, merchantIds, dimensions });
    return found ? { overflow: true as const } : {};
  });

  return {
    async cover(scope) {
      const { startDate, endDate, merchantIds } = scope;
      const today = dayOf(now());
      const dataSource = endDate < today ? 'cache' : startDate >= today ? 'live' : 'mixed';
      try {
        const { complete, asOf } = await drain(merchantIds);
        return { dataSource, asOf, complete, ...(isFiltered(scope) && (await overflowOf(scope))) };
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
