import { addDays, DAY_MS, type Day, dayOf, type Filters, type GroupBy, type PlanPart } from '@tally/contracts';

type Range = { startDate: Day; endDate: Day };

/** What a question needs of the sums it is read from. */
export type Needs = {
  /** It groups or filters by user or api key, which the model cube has dropped. */
  entities: boolean;
  /** It tells days apart, which the month cube has dropped. */
  days: boolean;
};

/** Whether a question groups or filters by user or api key. */
export function needsEntities(filters: Pick<Filters, 'userIds' | 'apiKeys'>, by?: GroupBy | undefined): boolean {
  return by === 'user' || by === 'apiKey' || Boolean(filters.userIds?.length) || Boolean(filters.apiKeys?.length);
}

/**
 * The smallest sums that answer a question, each for its part of the range; the parts cover every day of it once.
 * Whole months come from the month cube and the edges from days, so the cost grows with the months, not the days.
 */
export function planOf({ startDate, endDate }: Range, { entities, days }: Needs): PlanPart[] {
  if (!entities) return [{ cube: 'usage_daily_models', startDate, endDate }];
  const firstMonth = startDate === firstOfMonth(startDate) ? startDate : firstOfNextMonth(startDate);
  const afterMonths = firstOfMonth(addDays(endDate, 1));
  if (days || firstMonth >= afterMonths) return [{ cube: 'usage_daily', startDate, endDate }];
  const parts: PlanPart[] = [];
  if (startDate < firstMonth) parts.push({ cube: 'usage_daily', startDate, endDate: addDays(firstMonth, -1) });
  parts.push({ cube: 'usage_monthly', startDate: firstMonth, endDate: addDays(afterMonths, -1) });
  if (afterMonths <= endDate) parts.push({ cube: 'usage_daily', startDate: afterMonths, endDate });
  return parts;
}

/**
 * Like planOf, for periods that begin at the moments `starts` and end at `end`: days of UTC where all of them are, else
 * quarters of an hour, and the journal where users or keys must be told apart within a day.
 */
export function planSeries(
  { starts, end }: { starts: readonly number[]; end: number },
  { entities, days }: Needs,
): PlanPart[] {
  const range = { startDate: dayOf(starts[0]!), endDate: dayOf(end - 1) };
  if ([...starts, end].every((at) => at % DAY_MS === 0)) return planOf(range, { entities, days });
  return [{ cube: entities ? 'usage_events' : 'usage_quarter_hours', ...range }];
}

const firstOfMonth = (day: Day): Day => `${day.slice(0, 8)}01`;
const firstOfNextMonth = (day: Day): Day => firstOfMonth(addDays(firstOfMonth(day), 31));
