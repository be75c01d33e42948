import { DAY_MS, type Day, dayOf, MAX_BATCH, TallyError } from '@tally/contracts';
import type { LitellmStore, ToldBy } from '@tally/db';
import type { Pipeline } from '../pipeline.ts';
import type { Item, Outcome } from '../source.ts';
import type { Call } from './call.ts';
import { type Claim, claim } from './identity.ts';
import type { Names } from './names.ts';

export type Recorder = {
  /**
   * Gives each call the id and the time of the event that it counts as, in whichever way and order it is reported.
   * Leaves other items unchanged.
   */
  itemsOf(reports: readonly Report[]): Promise<Item[]>;
  /** Counts pulled calls. Throws UNAVAILABLE if the outcome is uncertain: the same calls can be recorded again. */
  recordPulled(reports: readonly Report[]): Promise<Outcome>;
  /** Counts the events that stand for a day; throws the same. */
  recordSums(entries: readonly Timed[]): Promise<Outcome>;
  /** Decides that the daily sums of a day are counted; returns false if its calls are counted already. */
  tellBySums(day: Day): Promise<boolean>;
};

/** A call, or the error of reading one. */
export type Report = Call | Exclude<Item, { entry: unknown }>;

/** An event and its time in milliseconds. */
type Timed = Pick<Call, 'entry' | 'at'>;

const MAX_KNOWN_DAYS = 10_000;

/** Turns calls into events whose identity does not depend on the path they took. */
export function createRecorder({
  pipeline,
  store,
  names,
  now,
}: {
  pipeline: Pick<Pipeline, 'record'>;
  store: Pick<LitellmStore, 'tell' | 'claimCalls'>;
  names: Names;
  now: () => number;
}): Recorder {
  const known = new Map<Day, ToldBy>();

  async function tell(days: ReadonlySet<Day>, by: ToldBy): Promise<void> {
    const unknown = [...days].filter((day) => !known.has(day));
    if (unknown.length === 0) return;
    if (known.size > MAX_KNOWN_DAYS) known.clear();
    for (const [day, first] of await store.tell([...days], by)) known.set(day, first);
  }

  async function claimed(calls: readonly Call[]): Promise<Claim[]> {
    const all: Claim[] = [];
    for (let start = 0; start < calls.length; start += MAX_BATCH) {
      const some = calls.slice(start, start + MAX_BATCH);
      const asked = some.flatMap(({ entry, ids }) => ids.all.map((alias) => ({ merchantId: entry.merchantId, alias })));
      let claims: Claim[] = [];
      await store.claimCalls(asked, (found) => {
        const decided = claim(some, found);
        claims = decided.claims;
        return decided.notes;
      });
      all.push(...claims);
    }
    return all;
  }

  /** Rejects events of days that are counted by the other kind, calls or sums. */
  async function ofTheirDays(entries: readonly (Timed & { item: Item })[], by: ToldBy): Promise<Item[]> {
    // Ingest rejects future events; those must not decide how their day is counted.
    const latest = dayOf(now() + DAY_MS);
    await tell(new Set(entries.map(({ at }) => dayOf(at)).filter((day) => day <= latest)), by);
    return entries.map(({ entry, at, item }) => {
      const day = dayOf(at);
      if (day > latest || known.get(day) === by) return item;
      const message = `The usage of ${day} is counted by its ${known.get(day)}.`;
      return { refused: { code: 'DAY_TOLD_BY_SUMS', message }, id: entry.id };
    });
  }

  async function itemsOf(reports: readonly Report[]): Promise<Item[]> {
    return orUnavailable(async () => {
      const claims = await claimed(reports.filter(isCall));
      await names.learn(reports.filter(isCall).flatMap((call) => call.names));
      const entries = reports.filter(isCall).map(({ entry }, index) => {
        const { entryId, at, isRepeat, conflict } = claims[index]!;
        const own = { ...entry, id: entryId, time: new Date(at).toISOString() };
        return { entry: own, at, item: { entry: own, seen: isRepeat ? { differs: conflict } : undefined } };
      });
      const items = (await ofTheirDays(entries, 'calls')).values();
      return reports.map((report) => (isCall(report) ? items.next().value! : report));
    });
  }

  return {
    itemsOf,
    recordPulled: async (reports) => pipeline.record('litellm.pull', await itemsOf(reports), OWN),
    async recordSums(entries) {
      const items = await orUnavailable(() =>
        ofTheirDays(
          entries.map((each) => ({ ...each, item: { entry: each.entry } })),
          'sums',
        ),
      );
      return pipeline.record('litellm.daily', items, OWN);
    },
    async tellBySums(day) {
      await tell(new Set([day]), 'sums');
      return known.get(day) === 'sums';
    },
  };
}

export const isCall = (report: Report): report is Call => typeof report === 'object' && 'ids' in report;

/** Counts everything requested from LiteLLM, however old. */
const OWN = { boundTo: null, backfill: true, isCompared: true };

async function orUnavailable<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    throw new TallyError('UNAVAILABLE', 'The calls could not be stored. Nothing was acknowledged; send them again.', {
      cause,
    });
  }
}
