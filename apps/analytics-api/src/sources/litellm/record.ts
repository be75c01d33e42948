import { DAY_MS, type Day, dayOf, HOUR_MS, MAX_BATCH, type RecordResult, TallyError } from '@tally/contracts';
import type { IngestClient } from '@tally/contracts/client';
import type { LitellmStore, ToldBy } from '@tally/db';
import type { Call } from './call.ts';
import type { LitellmMetrics, Way } from './metrics.ts';

export type Recorder = {
  /**
   * Records calls, each once, whichever way and however often it is told. Answers when all are stored or refused;
   * UNAVAILABLE where that is not sure: the same calls can be recorded again.
   */
  record(calls: readonly Call[], options: { way: Way; backfill: boolean }): Promise<RecordResult>;
  /** Says that a day is told by its daily sums; false where its calls are counted already. */
  tellBySums(day: Day): Promise<boolean>;
};

/** The callback's events have the time of sending, rows the start to the millisecond: around a midnight days could differ. */
const NEAR_MIDNIGHT_MS = 2 * HOUR_MS;
const MAX_KNOWN_DAYS = 10_000;

/** Brings calls to usage-ingest as entries whose identity does not depend on the way they came. */
export function createRecorder({
  ingest,
  store,
  metrics,
  now,
}: {
  ingest: IngestClient;
  store: Pick<LitellmStore, 'tell' | 'settle'>;
  metrics: LitellmMetrics;
  now: () => number;
}): Recorder {
  const known = new Map<Day, ToldBy>();

  async function tell(days: ReadonlySet<Day>, by: ToldBy): Promise<void> {
    const unknown = [...days].filter((day) => !known.has(day));
    if (unknown.length === 0) return;
    if (known.size > MAX_KNOWN_DAYS) known.clear();
    for (const [day, first] of await store.tell([...days], by)) known.set(day, first);
  }

  /** A call near a midnight takes the time that was first told of it, so that both tellings are of one day. */
  async function settled(calls: readonly Call[]): Promise<Call[]> {
    const near = calls.filter(({ at }) => midnightOf(at) !== undefined);
    const times = await store.settle(
      near.map(({ at, entry }) => ({
        midnight: midnightOf(at)!,
        merchantId: entry.merchantId,
        id: entry.id,
        at,
      })),
    );
    const first = new Map(near.map((call, index) => [call, times[index]!]));
    return calls.map((call) => {
      const at = first.get(call) ?? call.at;
      return at === call.at ? call : { at, entry: { ...call.entry, time: new Date(at).toISOString() } };
    });
  }

  async function recordAll(calls: readonly Call[], way: Way, backfill: boolean): Promise<RecordResult> {
    const by: ToldBy = way === 'daily' ? 'sums' : 'calls';
    const told = way === 'daily' ? [...calls] : await settled(calls);
    // What lies ahead is refused by ingest, and must not say anything about its day.
    const latest = dayOf(now() + DAY_MS);
    const days = told.map(({ at }) => dayOf(at)).filter((day) => day <= latest);
    await tell(new Set(days), by);
    const total: RecordResult = { accepted: 0, duplicates: 0, rejected: [] };
    const counted: { index: number; call: Call }[] = [];
    for (const [index, call] of told.entries()) {
      const day = dayOf(call.at);
      if (day > latest || known.get(day) === by) counted.push({ index, call });
      else
        total.rejected.push({
          index,
          id: call.entry.id,
          code: 'DAY_TOLD_BY_SUMS',
          message: `${day} is counted by its ${known.get(day)}.`,
        });
    }
    for (let start = 0; start < counted.length; start += MAX_BATCH) {
      const batch = counted.slice(start, start + MAX_BATCH);
      const result = await ingest.usage.record.mutate({ entries: batch.map(({ call }) => call.entry), backfill });
      total.accepted += result.accepted;
      total.duplicates += result.duplicates;
      for (const each of result.rejected) total.rejected.push({ ...each, index: batch[each.index]!.index });
    }
    return total;
  }

  return {
    async record(calls, { way, backfill }) {
      try {
        const result = await recordAll(calls, way, backfill);
        metrics.recorded(way, result);
        return result;
      } catch (error) {
        throw new TallyError('UNAVAILABLE', 'The calls could not be stored.', { cause: error });
      }
    },
    async tellBySums(day) {
      await tell(new Set([day]), 'sums');
      return known.get(day) === 'sums';
    },
  };
}

/** The midnight that a moment lies near; undefined for all others. */
function midnightOf(at: number): Day | undefined {
  const day = dayOf(at + NEAR_MIDNIGHT_MS);
  const midnight = Date.parse(`${day}T00:00:00Z`);
  return at - midnight < NEAR_MIDNIGHT_MS ? day : undefined;
}
