import { type CheckedEntry, DAY_MS, type Day, dayOf, MAX_BATCH, type RecordResult, TallyError } from '@tally/contracts';
import type { IngestClient } from '@tally/contracts/client';
import type { LitellmStore, ToldBy } from '@tally/db';
import type { Call } from './call.ts';
import { type Claim, claim } from './identity.ts';
import type { LitellmMetrics, Way } from './metrics.ts';

/** What became of calls. */
export type Recorded = Omit<RecordResult, 'warnings'>;

export type Recorder = {
  /**
   * Records calls, each once, however often and in whichever way it is reported. Resolves when all are stored or rejected.
   * Throws UNAVAILABLE where that is not certain: the same calls can be recorded again.
   */
  record(calls: readonly Call[], options: { way: Exclude<Way, 'daily'>; backfill: boolean }): Promise<Recorded>;
  /** Records the entries that stand for a day. */
  recordSums(entries: readonly Timed[]): Promise<Recorded>;
  /** Makes the daily sums of a day be counted; returns false where its calls are counted already. */
  tellBySums(day: Day): Promise<boolean>;
};

/** An entry and its time in milliseconds. */
type Timed = { entry: CheckedEntry; at: number; claim?: Claim };

const MAX_KNOWN_DAYS = 10_000;

/** Sends calls to usage-ingest as entries whose identity does not depend on the way they came. */
export function createRecorder({
  ingest,
  store,
  metrics,
  now,
}: {
  ingest: IngestClient;
  store: Pick<LitellmStore, 'tell' | 'claimCalls'>;
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

  /** Gives each call the id and the time of the entry that it counts as. */
  async function claimed(calls: readonly Call[]): Promise<Timed[]> {
    const entries: Timed[] = [];
    for (let start = 0; start < calls.length; start += MAX_BATCH) {
      const some = calls.slice(start, start + MAX_BATCH);
      const asked = some.flatMap(({ entry, ids }) => ids.all.map((alias) => ({ merchantId: entry.merchantId, alias })));
      let claims: Claim[] = [];
      await store.claimCalls(asked, (found) => {
        const decided = claim(some, found);
        claims = decided.claims;
        return decided.notes;
      });
      for (const [index, { entry }] of some.entries()) {
        const of = claims[index]!;
        const time = new Date(of.at).toISOString();
        entries.push({ entry: { ...entry, id: of.entryId, time }, at: of.at, claim: of });
      }
    }
    return entries;
  }

  async function send(entries: readonly Timed[], by: ToldBy, backfill: boolean): Promise<Recorded> {
    // Ingest rejects what is ahead; that must not decide how its day is counted.
    const latest = dayOf(now() + DAY_MS);
    const days = entries.map(({ at }) => dayOf(at)).filter((day) => day <= latest);
    await tell(new Set(days), by);
    const total: Recorded = { accepted: 0, duplicates: 0, rejected: [] };
    const counted: number[] = [];
    const differing: number[] = [];
    for (const [index, { entry, at, claim }] of entries.entries()) {
      const day = dayOf(at);
      if (day > latest || known.get(day) === by) (claim?.conflict ? differing : counted).push(index);
      else {
        const message = `${day} is counted by its ${known.get(day)}.`;
        total.rejected.push({ index, id: entry.id, code: 'DAY_TOLD_BY_SUMS', message });
      }
    }
    const sendSome = async (indexes: readonly number[]) => {
      const batch = indexes.map((index) => entries[index]!);
      const result = await ingest.usage.record.mutate({ entries: batch.map(({ entry }) => entry), backfill });
      total.accepted += result.accepted;
      for (const each of result.rejected) {
        const index = indexes[each.index]!;
        const { claim } = entries[index]!;
        // A row and a payload of one call differ in what they tell beside the amounts; those were compared here.
        if (each.code === 'ID_CONFLICT' && claim?.isRepeat && !claim.conflict) total.duplicates++;
        else total.rejected.push({ ...each, index });
      }
      return result.duplicates;
    };
    for (let start = 0; start < counted.length; start += MAX_BATCH)
      total.duplicates += await sendSome(counted.slice(start, start + MAX_BATCH));
    // Each by itself, so that the answer says whether the first report was counted, or lost before it was.
    for (const index of differing) {
      if ((await sendSome([index])) === 0) continue;
      const { entry, claim } = entries[index]!;
      total.rejected.push({ index, id: entry.id, code: 'ID_CONFLICT', message: claim!.conflict! });
    }
    total.rejected.sort((a, b) => a.index - b.index);
    return total;
  }

  async function recordAs(way: Way, work: () => Promise<Recorded>): Promise<Recorded> {
    try {
      const result = await work();
      metrics.recorded(way, result);
      return result;
    } catch (error) {
      throw new TallyError('UNAVAILABLE', 'The calls could not be stored. Nothing was acknowledged; send them again.', {
        cause: error,
      });
    }
  }

  return {
    record: (calls, { way, backfill }) => recordAs(way, async () => send(await claimed(calls), 'calls', backfill)),
    recordSums: (entries) => recordAs('daily', () => send(entries, 'sums', true)),
    async tellBySums(day) {
      await tell(new Set([day]), 'sums');
      return known.get(day) === 'sums';
    },
  };
}
