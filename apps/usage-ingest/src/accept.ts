import {
  addDays,
  type Day,
  dayOf,
  isTallyError,
  MAX_SUM_UNITS,
  type RecordResult,
  type Rejection,
  TallyError,
  type Units,
} from '@tally/contracts';
import { type FlushSource, isRefusal, type Journal } from '@tally/db';
import { type BatchToCheck, type CheckedLine, checkBatch } from './check.ts';
import type { Amount, Counters, MerchantBatch, Stored } from './counters/counters.ts';
import { LIVE_DAYS } from './counters/keys.ts';
import type { FaultPoint } from './faults.ts';
import { amountsOf, dimensionsOf, eachAmount, identityOf } from './line.ts';

export type AcceptOptions = {
  counters: Counters;
  journal: Journal;
  /** Days for which the journal keeps entries; older ones need `backfill`. */
  retentionDays: number;
  now: () => number;
  /** Whether Redis is so full that nothing more may be accepted. */
  isFull: () => boolean;
  /** Told when Redis could not take a batch and Postgres did. */
  onDetour(error: unknown): void;
  fault: FaultPoint;
};

export type Accept = {
  /** Stores a batch durably before it answers; UNAVAILABLE where a store failed: send the same batch again. */
  record(batch: BatchToCheck): Promise<RecordResult>;
  /** Stores lines that were already checked: plain counters. */
  store(lines: readonly CheckedLine[]): Promise<StoreResult>;
};

export type StoreResult = { accepted: number; rejected: Rejection[] };

/** Takes entries in: checks each, drops repeats, stores the rest in Redis, or in Postgres where Redis is no way. */
export function createAccept(options: AcceptOptions): Accept {
  const { counters, journal, now, fault } = options;

  /** Each round stores all that is left or takes some out, so there are few. */
  async function throughRedis(merchantId: string, entries: readonly CheckedLine[]): Promise<StoreResult> {
    await fault('record.before-redis');
    const rejected: Rejection[] = [];
    let left = [...entries];
    while (left.length > 0) {
      const stored = await counters.store(batchOf(merchantId, left), now());
      if (stored.outcome === 'stored') break;
      const refused = stored.outcome === 'seen' ? undefined : refusalOf(stored);
      const out = new Set(
        stored.outcome === 'seen'
          ? stored.positions.map((position) => left[position]!)
          : left.filter(refused!.concerns),
      );
      if (refused) rejected.push(...[...out].map((entry) => rejectionOf(entry, refused.code, refused.message)));
      left = left.filter((entry) => !out.has(entry));
    }
    await fault('record.after-store');
    return { accepted: left.length, rejected };
  }

  async function directly(entries: readonly CheckedLine[], source: FlushSource): Promise<StoreResult> {
    const lines = entries.map(({ line }) => line);
    try {
      const { inserted } = await journal.append({
        source,
        lines: lines.map((line) => ({ ...line, origin: 'direct' })),
      });
      return { accepted: inserted, rejected: [] };
    } catch (error) {
      if (!isRefusal(error)) throw error;
      const [entry] = entries;
      if (entries.length === 1) return { accepted: 0, rejected: [rejectionOf(entry!, ...reasonOf(error))] };
      // Halves, until those that are refused stand alone.
      const half = Math.ceil(entries.length / 2);
      const first = await directly(entries.slice(0, half), source);
      const second = await directly(entries.slice(half), source);
      return { accepted: first.accepted + second.accepted, rejected: [...first.rejected, ...second.rejected] };
    }
  }

  async function store(lines: readonly CheckedLine[]): Promise<StoreResult> {
    const today = dayOf(now());
    const hot = (day: Day) => day >= addDays(today, -LIVE_DAYS);
    const kept = (day: Day) => day >= addDays(today, -options.retentionDays);
    const result: StoreResult = { accepted: 0, rejected: [] };
    const add = (part: StoreResult) => {
      result.accepted += part.accepted;
      result.rejected.push(...part.rejected);
    };
    if (options.isFull() && lines.some(({ line }) => hot(line.date))) {
      throw new TallyError('UNAVAILABLE', 'Redis is above its high mark; the flush is catching up.');
    }
    for (const [merchantId, entries] of groupBy(lines, ({ line }) => line.merchant_id)) {
      const fresh = entries.filter(({ line }) => hot(line.date));
      const direct = entries.filter(({ line }) => !hot(line.date) && kept(line.date));
      const backfill = entries.filter(({ line }) => !kept(line.date));
      if (fresh.length > 0) {
        try {
          add(await throughRedis(merchantId, fresh));
        } catch (error) {
          // The journal finds an entry whichever way it came, so a batch half-known to Redis may go this way too.
          options.onDetour(error);
          direct.push(...fresh);
        }
      }
      if (direct.length > 0) add(await directly(direct, 'direct'));
      if (backfill.length > 0) add(await directly(backfill, 'backfill'));
    }
    return result;
  }

  return {
    store,
    async record(batch) {
      const checked = checkBatch(batch, { now: now(), retentionDays: options.retentionDays });
      try {
        await fault('record.before-store');
        const { accepted, rejected } = await store(checked.lines);
        const repeated = checked.repeats.flatMap(({ index, of }) =>
          rejected.filter((each) => each.index === of).map((each) => ({ ...each, index })),
        );
        const all = [...checked.rejected, ...rejected, ...repeated].sort((a, b) => a.index - b.index);
        return { accepted, duplicates: batch.entries.length - all.length - accepted, rejected: all };
      } catch (error) {
        if (isTallyError(error)) throw error;
        throw new TallyError('UNAVAILABLE', 'The batch could not be stored; send it again.', { cause: error });
      }
    },
  };
}

function batchOf(merchantId: string, entries: readonly CheckedLine[]): MerchantBatch {
  const days = new Map<Day, { sums: Map<string, Sum>; dimensions: Set<string> }>();
  let day = { sums: new Map<string, Sum>(), dimensions: new Set<string>() };
  let date: Day | undefined;
  const addAmount = (metricType: string, units: string) => {
    const sum = day.sums.get(metricType);
    if (sum) addTo(sum, units);
    else day.sums.set(metricType, addTo({ small: 0, large: 0n }, units));
  };
  for (const { line } of entries) {
    if (line.date !== date) {
      date = line.date;
      day = days.get(date) ?? { sums: new Map(), dimensions: new Set() };
      days.set(date, day);
    }
    day.dimensions.add(dimensionsOf(line));
    eachAmount(line, addAmount);
  }
  return {
    merchantId,
    identities: entries.map(({ line }) => identityOf(line)),
    lines: entries.map(({ line }) => JSON.stringify(line)),
    amounts: [...days].flatMap(([date, { sums }]) =>
      [...sums].map(([metricType, { small, large }]): Amount => ({ date, metricType, units: large + BigInt(small) })),
    ),
    dimensions: new Map([...days].map(([date, { dimensions }]) => [date, [...dimensions]])),
  };
}

/** An exact sum: doubles while they are exact, which amounts of at most 10^15 let us see in time. */
type Sum = { small: number; large: Units };

const EXACT_DIGITS = 15;
const EXACT_MOST = 8e15;

function addTo(sum: Sum, units: string): Sum {
  if (units.length > EXACT_DIGITS) sum.large += BigInt(units);
  else sum.small += Number(units);
  if (sum.small > EXACT_MOST) {
    sum.large += BigInt(sum.small);
    sum.small = 0;
  }
  return sum;
}

type Refused = { code: Rejection['code']; message: string; concerns: (entry: CheckedLine) => boolean };

/** Which entries a limit of Redis concerns, and what to say of them. */
function refusalOf(stored: Exclude<Stored, { outcome: 'stored' | 'seen' }>): Refused {
  if (stored.outcome === 'limit') {
    const full = new Set(stored.amounts.map(({ date, metricType }) => `${date} ${metricType}`));
    return {
      code: 'TOTAL_LIMIT',
      message: `A total of the day would pass ${MAX_SUM_UNITS} units.`,
      concerns: ({ line }) => amountsOf(line).some(([metricType]) => full.has(`${line.date} ${metricType}`)),
    };
  }
  const { kind, date } = stored;
  const members = new Set(stored.members);
  return {
    code: 'CARDINALITY_LIMIT',
    message: `The merchant has as many distinct ${kind === 'types' ? 'metric types' : 'users, keys, models and providers'} on ${date} as a day may have.`,
    concerns: ({ line }) =>
      line.date === date &&
      (kind === 'types' ? amountsOf(line).some(([type]) => members.has(type)) : members.has(dimensionsOf(line))),
  };
}

function rejectionOf({ index, line }: CheckedLine, code: string, message: string): Rejection {
  return { index, id: line.id, code, message };
}

function reasonOf(error: unknown): [code: string, message: string] {
  if (isTallyError(error)) return [error.code, error.message];
  return ['INVALID_ENTRY', 'Postgres refuses this entry.'];
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
