import type { analytics } from '@tally/contracts';
import { type Caller, type Handlers, merchantsFor, type RateLimit } from '@tally/service';
import type { Bills } from './bills/bills.ts';
import type { Cache } from './cache.ts';
import { assertRange } from './dates.ts';
import type { Days } from './days.ts';
import type { Directory } from './directory.ts';
import type { Freshness } from './fresh.ts';
import type { Import } from './import.ts';
import type { ReadMeter } from './meter.ts';
import type { Read } from './read.ts';
import type { Warm } from './warm.ts';

/** Days of merchants dropped by one call; `cache.clear` is for more. */
const MAX_INVALIDATED = 10_000;

export type Parts = {
  read: Read;
  readMeter: ReadMeter;
  freshness: Freshness;
  directory: Directory;
  days: Days;
  importDays: Import;
  bills: Bills;
  cache: Cache;
  warm: Warm;
  rates: RateLimit;
};

/** analytics-api's procedures: each counts the call and calls one function. */
export function createHandlers({
  read,
  readMeter,
  freshness,
  directory,
  days,
  importDays,
  bills,
  cache,
  warm,
  rates,
}: Parts): Handlers<typeof analytics> {
  /** A query that is counted while it runs. */
  const asked = async <Question, Answer>(
    caller: Caller,
    question: Question,
    read: (question: Question, callerId: string) => Promise<Answer>,
  ) => rates.during('analytics', caller.id, async () => read(question, caller.id));
  return {
    analytics: {
      summary: ({ input, caller }) => asked(caller, input, read.summary),
      breakdown: ({ input, caller }) => asked(caller, input, read.breakdown),
      timeseries: ({ input, caller }) => asked(caller, input, read.timeseries),
      meter: ({ input, caller }) => asked(caller, input, readMeter),
      filterOptions: ({ input, caller }) => asked(caller, input, read.filterOptions),
      merchantUsage: ({ input, caller }) => asked(caller, input, read.merchantUsage),
      async refresh({ caller }) {
        await rates.take('analytics', caller.id);
        return freshness.refresh(merchantsFor(caller, undefined));
      },
    },
    directory: {
      async upsert({ input, caller }) {
        return directory.upsert(input.entries, caller);
      },
      async list({ input: { merchantId, ...page }, caller }) {
        const merchantIds = merchantId === undefined ? undefined : [merchantId];
        return directory.list({ ...page, merchantIds, boundTo: caller.merchantId });
      },
      remove: async ({ input, caller }) => directory.remove(input, caller),
    },
    days: {
      async rebuild({ input, caller }) {
        await rates.take('rebuild', caller.id);
        return days.rebuild(input);
      },
      async import({ input, caller }) {
        await rates.take('analytics', caller.id);
        return importDays(input);
      },
      get: async ({ input }) => days.get(input.date),
      status: async ({ input }) => days.status(input),
    },
    bills: {
      async import({ input, caller }) {
        await rates.take('analytics', caller.id);
        return bills.import(input, caller);
      },
      list: async ({ input }) => bills.list(input),
      remove: async ({ input }) => bills.remove(input),
      compare: ({ input, caller }) => asked(caller, input, bills.compare),
    },
    cache: {
      stats: async () => cache.stats(),
      async invalidate({ input, caller }) {
        await rates.take('rebuild', caller.id);
        assertRange(input, Math.floor(MAX_INVALIDATED / input.merchantIds.length));
        return { invalidated: await cache.invalidate(input) };
      },
      async warm({ input, caller }) {
        await rates.take('rebuild', caller.id);
        return warm(input);
      },
      async clear({ caller }) {
        await rates.take('rebuild', caller.id);
        await cache.clear();
        return { cleared: true };
      },
    },
  };
}
