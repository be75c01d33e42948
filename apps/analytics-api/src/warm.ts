import { addDays, type Day, type DayRange, dayOf } from '@tally/contracts';
import type { Read } from './read.ts';

/** The ranges that dashboards open with, in days up to today. */
const DASHBOARD_DAYS = [7, 30, 90, 365];
/** Warming takes turns with callers. */
const WARM = 'cache.warm';

/** Runs the first queries of a dashboard, one after the other, so that warming does not displace callers. */
export function createWarm(read: Read, now: () => number) {
  async function warm(scope: DayRange & { merchantIds?: string[] | undefined }): Promise<number> {
    const page = { ...scope, sortBy: 'cost', order: 'desc', limit: 50 } as const;
    await read.summary(scope, WARM);
    await read.filterOptions(scope, WARM);
    await read.timeseries({ ...scope, interval: 'day', timeZone: 'UTC' }, WARM);
    const groups = ['user', 'model', 'provider', 'apiKey', 'merchant'] as const;
    for (const by of groups) await read.breakdown({ ...page, by }, WARM);
    return 3 + groups.length;
  }

  return async ({ startDate, endDate, merchantIds }: Scope) => {
    const started = performance.now();
    const today = dayOf(now());
    const ranges =
      startDate !== undefined && endDate !== undefined
        ? [{ startDate, endDate }]
        : DASHBOARD_DAYS.map((days) => ({ startDate: addDays(today, 1 - days), endDate: today }));
    let questions = 0;
    for (const range of ranges) questions += await warm({ ...range, merchantIds });
    return { questions, durationMs: Math.round(performance.now() - started) };
  };
}

type Scope = { [K in keyof DayRange]?: Day | undefined } & { merchantIds?: string[] | undefined };

export type Warm = ReturnType<typeof createWarm>;
