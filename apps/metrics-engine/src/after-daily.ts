import { addDays, type Day } from '@tally/contracts';
import type { AnalyticsClient } from '@tally/contracts/client';

/** Days whose snapshots are checked. Snapshots of older days are rebuilt when a query needs them. */
const SEALED_DAYS = 92;
const WARMED_DAYS = 30;

/**
 * What follows the daily rollups: documents of closed days are sealed, and a dashboard's questions are asked. Nothing
 * is invalidated: answers are kept under the version of what they read, which whoever counts has already changed.
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
