import { setTimeout as pause } from 'node:timers/promises';
import { type Coverage, type Day, dayOf, type Grouping } from '@tally/contracts';
import type { IngestClient } from '@tally/contracts/client';
import type { Db } from '@tally/db';
import { coalesceBy, createFlushedUntil } from '@tally/service';

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

/** Returns the dimensions whose values an answer names: values beyond their limit are not in rollups under their name. */
function dimensionsOf({ userIds, apiKeys, models, providers, teams }: Scope, groupings: readonly Grouping[]) {
  const named = (names: Names) => names !== undefined && names.length > 0;
  // A team is found by the user and the key of a row.
  const byTeam = named(teams) || groupings.includes('team');
  const isNamed = {
    user_id: byTeam || named(userIds),
    api_key: byTeam || named(apiKeys),
    model: named(models),
    provider: named(providers),
  };
  return (Object.keys(isNamed) as (keyof typeof isNamed)[]).filter((name) => isNamed[name]);
}

export type Freshness = {
  /**
   * Ensures that everything acknowledged before the call is in Postgres, and returns the coverage of an answer that
   * reads Postgres afterwards. Live and stored data thus never overlap. `groupings`: what the answer groups by.
   */
  cover(scope: Scope, groupings?: readonly Grouping[]): Promise<Coverage>;
  /** Flushes pending events: of some merchants, or of all. */
  refresh(
    merchantIds?: readonly string[],
  ): Promise<{ recordsAggregated: number; complete: boolean; refreshedAt: string }>;
};

/** How long a flush for several callers waits for more: with 16 callers, twice as many share one. */
const GATHER_MS = 2;
const gather = () => pause(GATHER_MS);

/** Closed days still get late events through Redis, so queries about them flush, too. */
export function createFreshness({
  ingest,
  overflowed,
  now,
}: {
  ingest: IngestClient;
  /** Returns whether one of these dimensions exceeded its limit of values on a day. */
  overflowed: Db['usage']['overflowed'];
  now: () => number;
}): Freshness {
  const flushed = createFlushedUntil();
  // Concurrent callers share flushes: a caller during a flush shares the next one.
  const drain = coalesceBy(async (merchantIds: readonly string[] | undefined) => {
    // A list too long for one request is answered by flushing all merchants.
    const some = merchantIds && merchantIds.length <= 1000 ? { merchantIds: [...merchantIds] } : {};
    const answer = await ingest.flush.beforeRead.mutate(some);
    flushed.note(some.merchantIds, answer.asOf);
    return answer;
  }, gather);

  const overflowOf = coalesceBy(async (asked: Parameters<typeof overflowed>[0]) =>
    (await overflowed(asked)) ? { overflow: true as const } : {},
  );

  return {
    async cover(scope, groupings = []) {
      const { startDate, endDate, merchantIds } = scope;
      const today = dayOf(now());
      const dataSource = endDate < today ? 'cache' : startDate >= today ? 'live' : 'mixed';
      const dimensions = dimensionsOf(scope, groupings);
      // After the flush, which may be what exceeds a limit.
      const overflow = async () =>
        dimensions.length > 0 ? overflowOf({ startDate, endDate, merchantIds, dimensions }) : {};
      try {
        const { complete, asOf } = await drain(merchantIds);
        return { dataSource, asOf, complete, ...(await overflow()) };
      } catch {
        // Postgres still answers, up to a flush that was answered earlier.
        return {
          dataSource: dataSource === 'live' ? 'none' : 'cache',
          asOf: flushed.of(merchantIds),
          complete: false,
          ...(await overflow().catch(() => ({}))),
        };
      }
    },
    async refresh(merchantIds) {
      const { recordsAggregated, complete, asOf } = await drain(merchantIds);
      return { recordsAggregated, complete, refreshedAt: asOf };
    },
  };
}
