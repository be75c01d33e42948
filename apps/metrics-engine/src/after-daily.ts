import { addDays, type Day } from '@tally/contracts';
import type { AnalyticsClient } from '@tally/contracts/client';
import type { RollupReader } from './rollups/read.ts';

export type AfterDailyOptions = {
  analytics: Pick<AnalyticsClient, 'days' | 'cache'>;
  reader: Pick<RollupReader, 'list'>;
};

/** Days whose documents are looked at: late entries older than that make their documents anew when they are asked for. */
const SEALED_DAYS = 92;
const WARMED_DAYS = 30;
/** What one call of `cache.invalidate` takes; above it everything is forgotten. */
const MAX_MERCHANTS = 1_000;

/** What follows the daily rollups: day documents are sealed, and answers about the day are forgotten and asked anew. */
export function createAfterDaily({ analytics, reader }: AfterDailyOptions) {
  return async (yesterday: Day): Promise<{ rebuilt: number; invalidated: number | 'all'; warmed: number }> => {
    const { rebuilt, complete } = await analytics.days.rebuild.mutate({
      startDate: addDays(yesterday, -SEALED_DAYS + 1),
      endDate: yesterday,
      onlyStale: true,
    });
    if (!complete) throw new Error('Days could not be sealed: usage-ingest did not say that all is counted.');
    const invalidated = await invalidate(yesterday);
    const { questions } = await analytics.cache.warm.mutate({
      startDate: addDays(yesterday, -WARMED_DAYS + 1),
      endDate: yesterday,
    });
    return { rebuilt, invalidated, warmed: questions };
  };

  async function invalidate(date: Day): Promise<number | 'all'> {
    const { rows } = await reader.list('daily', {
      startDate: date,
      endDate: date,
      entityType: 'merchant',
      metricTypes: ['requests'],
      limit: MAX_MERCHANTS,
    });
    const merchantIds = rows.map((row) => row.entityId);
    if (merchantIds.length === 0) return 0;
    if (merchantIds.length < MAX_MERCHANTS) {
      const { invalidated } = await analytics.cache.invalidate.mutate({ merchantIds, startDate: date, endDate: date });
      return invalidated;
    }
    await analytics.cache.clear.mutate({});
    return 'all';
  }
}
