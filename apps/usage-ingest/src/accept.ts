import {
  addDays,
  type Day,
  dayOf,
  MAX_SUM_UNITS,
  type RecordResult,
  type Rejection,
  TallyError,
} from '@tally/contracts';
import type { FlushSource, Journal } from '@tally/db';
import { type CheckedLine, checkBatch } from './check.ts';
import type { Amount, Counters, MerchantBatch } from './counters/counters.ts';
import { LIVE_DAYS } from './counters/keys.ts';
import { amountsOf, identityOf } from './line.ts';

export type AcceptOptions = {
  counters: Counters;
  journal: Journal;
  /** Days for which the journal keeps entries; older ones need `backfill`. */
  retentionDays: number;
  now: () => number;
  /** Told when Redis could not take a batch and Postgres did. */
  onDetour(error: unknown): void;
};

export type AcceptRequest = {
  entries: readonly unknown[];
  backfill: boolean;
  /** The only merchant that the caller may name; null for any. */
  boundTo: string | null;
};

export type Accept = {
  /** Stores a batch durably before it answers; UNAVAILABLE where a store failed: send the same batch again. */
  record(request: AcceptRequest): Promise<RecordResult>;
  /** Stores lines that were already checked: plain counters. */
  store(lines: readonly CheckedLine[]): Promise<{ accepted: number; rejected: CheckedLine[] }>;
};

/** Takes entries in: checks each, drops repeats, stores the rest in Redis, or in Postgres where Redis is no way. */
export function createAccept(options: AcceptOptions): Accept {
  const { counters, journal, now } = options;

  async function throughRedis(merchantId: string, entries: CheckedLine[]): Promise<CheckedLine[] | 'limit'> {
    let left = entries;
    // Each round either stores all that is left or drops what was seen, so there are few.
    while (left.length > 0) {
      const stored = await counters.store(batchOf(merchantId, left), now());
      if (stored.outcome === 'stored') return left;
      if (stored.outcome === 'limit') return 'limit';
      const seen = new Set(stored.positions);
      left = left.filter((_, position) => !seen.has(position));
    }
    return left;
  }

  async function directly(merchantId: string, entries: CheckedLine[], source: FlushSource): Promise<number> {
    const { inserted } = await journal.append([merchantId], {
      source,
      lines: JSON.stringify(entries.map(({ line }) => line)),
      days: entries.map(({ line }) => line.date),
    });
    return inserted;
  }

  async function store(lines: readonly CheckedLine[]): Promise<{ accepted: number; rejected: CheckedLine[] }> {
    const today = dayOf(now());
    const hot = (day: Day) => day >= addDays(today, -LIVE_DAYS);
    const kept = (day: Day) => day >= addDays(today, -options.retentionDays);
    let accepted = 0;
    const rejected: CheckedLine[] = [];

    const limited = (entries: CheckedLine[]) => (error: unknown) => {
      if (!(error instanceof TallyError) || error.code !== 'TOTAL_LIMIT') throw error;
      rejected.push(...entries);
      return 0;
    };
    for (const [merchantId, entries] of groupBy(lines, ({ line }) => line.merchant_id)) {
      const fresh = entries.filter(({ line }) => hot(line.date));
      const direct = new Map<FlushSource, CheckedLine[]>([
        ['direct', entries.filter(({ line }) => !hot(line.date) && kept(line.date))],
        ['backfill', entries.filter(({ line }) => !kept(line.date))],
      ]);
      if (fresh.length > 0) {
        try {
          const stored = await throughRedis(merchantId, fresh);
          if (stored === 'limit') rejected.push(...fresh);
          else accepted += stored.length;
        } catch (error) {
          // The journal finds an entry whichever way it came, so a batch half-known to Redis may go this way too.
          options.onDetour(error);
          direct.set('direct', [...direct.get('direct')!, ...fresh]);
        }
      }
      for (const [source, some] of direct) {
        if (some.length > 0) accepted += await directly(merchantId, some, source).catch(limited(some));
      }
    }
    return { accepted, rejected };
  }

  return {
    store,
    async record(request) {
      const checked = checkBatch(request, { now: now(), retentionDays: options.retentionDays });
      try {
        const { accepted, rejected } = await store(checked.lines);
        return {
          accepted,
          duplicates: request.entries.length - checked.rejected.length - accepted - rejected.length,
          rejected: [...checked.rejected, ...rejected.map(overLimit)].sort((a, b) => a.index - b.index),
        };
      } catch (error) {
        if (error instanceof TallyError) throw error;
        throw new TallyError('UNAVAILABLE', 'The batch could not be stored; send it again.', { cause: error });
      }
    },
  };
}

function batchOf(merchantId: string, entries: readonly CheckedLine[]): MerchantBatch {
  const sums = new Map<string, Amount>();
  for (const { line } of entries) {
    for (const [metricType, units] of amountsOf(line)) {
      const key = `${line.date} ${metricType}`;
      const sum = sums.get(key);
      if (sum) sum.units += units;
      else sums.set(key, { date: line.date, metricType, units });
    }
  }
  return {
    merchantId,
    identities: entries.map(({ line }) => identityOf(line)),
    lines: entries.map(({ line }) => JSON.stringify(line)),
    amounts: [...sums.values()].filter(({ units }) => units <= MAX_SUM_UNITS),
  };
}

function groupBy<T>(items: readonly T[], keyOf: (item: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>();
  for (const item of items) {
    const group = groups.get(keyOf(item));
    if (group) group.push(item);
    else groups.set(keyOf(item), [item]);
  }
  return groups;
}

function overLimit({ index, line }: CheckedLine): Rejection {
  return {
    index,
    id: line.id,
    code: 'TOTAL_LIMIT',
    message: `A total of ${line.date} would pass ${MAX_SUM_UNITS} units.`,
  };
}
