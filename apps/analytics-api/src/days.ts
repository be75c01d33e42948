import { addDays, type Day, type DayRange, dayOf, eachDay } from '@tally/contracts';
import type { Db } from '@tally/db';
import { piecesOf } from '@tally/service';
import { assertRange } from './dates.ts';
import type { Freshness } from './fresh.ts';

/** Days per statement, and concurrent statements: making JSON keeps a core of Postgres busy. */
const BATCH = 7;
const AT_ONCE = 2;

type DaysToRebuild = { [K in keyof DayRange]?: Day | undefined } & { onlyStale: boolean };

/** Day snapshots: complete for closed days whose events are all counted, partial for others. */
export function createDays({
  db,
  freshness,
  maxDays,
  now,
  onProgress,
}: {
  db: Pick<Db, 'days'>;
  freshness: Freshness;
  maxDays: number;
  now: () => number;
  /** Called after each batch with the days handled, the days in all, and the snapshots made. */
  onProgress(progress: { days: number; of: number; rebuilt: number }): void;
}) {
  async function rebuild(dates: readonly Day[], complete: boolean, onlyStale = false): Promise<number> {
    const today = dayOf(now());
    const batches = piecesOf(dates, BATCH);
    let rebuilt = 0;
    let days = 0;
    const work = async () => {
      for (let batch = batches.shift(); batch; batch = batches.shift()) {
        const made = await db.days.rebuild(
          batch.map((date) => ({ date, status: complete && date < today ? 'complete' : 'partial' })),
          { onlyStale },
        );
        rebuilt += made;
        days += batch.length;
        onProgress({ days, of: dates.length, rebuilt });
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
    return rebuilt;
  }

  /** All closed days that a query may reach. */
  const closed = (): DayRange => {
    const yesterday = addDays(dayOf(now()), -1);
    return { startDate: addDays(yesterday, 1 - maxDays), endDate: yesterday };
  };

  return {
    async rebuild({ startDate, endDate, onlyStale }: DaysToRebuild) {
      const range = startDate !== undefined && endDate !== undefined ? { startDate, endDate } : closed();
      assertRange(range, maxDays);
      const started = performance.now();
      const { complete } = await freshness.cover(range);
      // Without usage and without a snapshot, nothing can be stale.
      const known = async () => (await db.days.status(range.startDate, range.endDate)).map(({ date }) => date);
      const dates = onlyStale ? await known() : eachDay(range.startDate, range.endDate);
      const rebuilt = await rebuild(dates, complete, onlyStale);
      return { rebuilt, complete, durationMs: Math.round(performance.now() - started) };
    },

    async get(date: Day) {
      const { complete } = await freshness.cover({ startDate: date, endDate: date });
      const [found] = await db.days.status(date, date);
      if (!found?.current || (found.status === 'partial' && complete)) await rebuild([date], complete);
      const [state] = await db.days.status(date, date);
      const groups = await db.days.groups(date);
      const of = (kind: string) =>
        Object.fromEntries(
          groups
            .filter((group) => group.kind === kind)
            .map((group) => [
              group.key,
              {
                requests: group.requests,
                totalTokens: group.total_tokens,
                promptTokens: group.prompt_tokens,
                completionTokens: group.completion_tokens,
                cost: group.cost,
              },
            ]),
        );
      return { ...state!, byUser: of('user'), byModel: of('model'), byProvider: of('provider') };
    },

    async status({ startDate, endDate }: DayRange) {
      assertRange({ startDate, endDate }, maxDays);
      return { rows: await db.days.status(startDate, endDate), nextCursor: null };
    },
  };
}

export type Days = ReturnType<typeof createDays>;
