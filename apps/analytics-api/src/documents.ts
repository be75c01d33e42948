import type { Coverage, DayRange, Filters, Grouping, PlanPart } from '@tally/contracts';
import type { Db } from '@tally/db';

/** The part of imported snapshots that an answer must also read, and whether that is complete. */
export type Imported = { parts: PlanPart[]; complete: boolean };

type Kind = 'user' | 'model' | 'provider';

/**
 * Returns the groupings of an imported snapshot that answer a query: several if the query has several, none for sums
 * only. Undefined if the query needs what no such snapshot has: a filter, a merchant, an API key, a time of day.
 */
export function kindsOf(filters: Omit<Filters, 'startDate' | 'endDate'>, ...groups: (Grouping | undefined)[]) {
  const { merchantIds, userIds, models, providers, apiKeys, teams } = filters;
  const filtered = [merchantIds, userIds, models, providers, apiKeys, teams].some((list) => list && list.length > 0);
  const asked = groups.filter((by) => by !== undefined);
  const kept = asked.filter((by): by is Kind => by === 'user' || by === 'model' || by === 'provider');
  return filtered || kept.length < asked.length ? undefined : kept;
}

/**
 * Adds imported snapshots to answers. A day imported as flat sums is answered from its snapshot if it has no counted
 * usage, else only from that usage: nothing counts twice, and an answer that leaves something out is not complete.
 */
export function createDocuments(days: Db['days']) {
  return {
    async within({ startDate, endDate }: DayRange, kinds: readonly Kind[] | undefined): Promise<Imported> {
      const found = await days.imported(startDate, endDate);
      const usable = kinds ? found.filter((day) => !day.counted) : [];
      const whole = found.every((day) => {
        const empty = !day.by_user && !day.by_model && !day.by_provider;
        const has = kinds?.every((kind) => empty || day[`by_${kind}`]) ?? false;
        return has && !day.counted && day.status === 'complete';
      });
      const [first, last] = [usable[0], usable.at(-1)];
      const parts =
        first && last ? [{ cube: 'daily_usage_cache' as const, startDate: first.date, endDate: last.date }] : [];
      return { parts, complete: whole };
    },
  };
}

export type Documents = ReturnType<typeof createDocuments>;

/** Returns the coverage of an answer, with its imported days. */
export function covering(
  coverage: Coverage,
  { complete }: Imported,
  unknown: NonNullable<Coverage['unknown']> = [],
): Coverage {
  return { ...coverage, complete: coverage.complete && complete, ...(unknown.length > 0 && { unknown }) };
}
