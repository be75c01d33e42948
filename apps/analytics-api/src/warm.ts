import type { DayRange } from '@tally/contracts';
import type { Read } from './read.ts';

/** Asks what a dashboard of this range asks first, one question after the other: warming must not crowd out callers. */
export function createWarm(read: Read) {
  return async (scope: DayRange & { merchantIds?: string[] | undefined }) => {
    const started = performance.now();
    const page = { ...scope, sortBy: 'cost', order: 'desc', limit: 50 } as const;
    await read.summary(scope);
    await read.filterOptions(scope);
    await read.timeseries({ ...scope, interval: 'day', timeZone: 'UTC' });
    const groups = ['user', 'model', 'provider', 'apiKey', 'merchant'] as const;
    for (const by of groups) await read.breakdown({ ...page, by });
    return { questions: 3 + groups.length, durationMs: Math.round(performance.now() - started) };
  };
}

export type Warm = ReturnType<typeof createWarm>;
