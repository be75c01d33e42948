import { type Day, type DayRange, dayOf, eachDay, TallyError } from '@tally/contracts';
import type { Db } from '@tally/db';
import type { Caller } from '@tally/service';
import { assertRange } from './dates.ts';
import type { Freshness } from './fresh.ts';

/** Days written by one statement. */
const BATCH = 14;

/** The day documents: complete for closed days of which all was counted, partial for others. */
export function createDays({
  db,
  freshness,
  maxDays,
  now,
}: {
  db: Pick<Db, 'days'>;
  freshness: Freshness;
  maxDays: number;
  now: () => number;
}) {
  async function rebuild(dates: readonly Day[], complete: boolean): Promise<number> {
    const today = dayOf(now());
    let rebuilt = 0;
    for (let from = 0; from < dates.length; from += BATCH) {
      rebuilt += await db.days.rebuild(
        dates.slice(from, from + BATCH).map((date) => ({
          date,
          status: complete && date < today ? 'complete' : 'partial',
        })),
      );
    }
    return rebuilt;
  }

  return {
    async rebuild({ startDate, endDate, onlyStale }: DayRange & { onlyStale: boolean }, caller: Caller) {
      assertPlatform(caller);
      assertRange({ startDate, endDate }, maxDays);
      const started = performance.now();
      const { complete } = await freshness.cover({ startDate, endDate });
      const stale = async () =>
        (await db.days.status(startDate, endDate)).filter((day) => !day.current).map(({ date }) => date);
      const rebuilt = await rebuild(onlyStale ? await stale() : eachDay(startDate, endDate), complete);
      return { rebuilt, complete, durationMs: Math.round(performance.now() - started) };
    },

    async get(date: Day, caller: Caller) {
      assertPlatform(caller);
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

    async status({ startDate, endDate }: DayRange, caller: Caller) {
      assertPlatform(caller);
      assertRange({ startDate, endDate }, maxDays);
      return { rows: await db.days.status(startDate, endDate), nextCursor: null };
    },
  };
}

export type Days = ReturnType<typeof createDays>;

function assertPlatform({ merchantId }: Caller): void {
  if (merchantId === null) return;
  throw new TallyError('MERCHANT_FORBIDDEN', `Day documents are of all merchants; this key is bound to ${merchantId}.`);
}
