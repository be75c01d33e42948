import { addDays, type Day } from '@tally/contracts';
import type { AnalyticsClient } from '@tally/contracts/client';

/** Days whose snapshots are checked. Snapshots of older days are rebuilt when a query needs them. */
const SEALED_DAYS = 92;
const WARMED_DAYS = 30;

/**
 * Runs after the daily rollups: rebuilds snapshots of closed days and warms the cache. Invalidates nothing: answers are
 * cached under the version of their data, which every count changes.
 */
export function createAfterDaily(analytics: Pick<AnalyticsClient, 'days' | 'cache'>) {
  return async (yesterday: Day): Promise<{ rebuilt: number; warmed: number }> => {
    const { rebuilt, complete } = await analytics.days.rebuild.mutate({
      startDate: addDays(yesterday, -SEALED_DAYS + 1),
      endDate: yesterday,
      onlyStale: true,
    });
    if (!complete) throw new Error('Days could not be sealed: usage-ingest did not say that all is counted.');
    const { questions } = await analytics.cache.warm.mutate({
      startDate: addDays(yesterday, -WARMED_DAYS + 1),
      endDate: yesterday,
    });
    return { rebuilt, warmed: questions };
  };
}
