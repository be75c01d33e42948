import {
  addDays,
  countDays,
  DAY_MS,
  type Day,
  dayOf,
  type Filters,
  type GroupBy,
  type PlanPart,
} from '@tally/contracts';

type Range = { startDate: Day; endDate: Day };

/** What a question needs of the sums it is read from. */
export type Needs = {
  /** It groups or filters by user or api key, which the model cube has dropped. */
  entities: boolean;
  /** It tells days apart, which the month cube has dropped. */
  days: boolean;
  /**
   * It asks for sums alone, so that days may be taken away from a month. Where names are listed without their sums, those
   * of the days taken away would be among them.
   */
  sums?: boolean;
};

/** Whether a question groups or filters by user or api key. */
export function needsEntities(filters: Pick<Filters, 'userIds' | 'apiKeys'>, by?: GroupBy | undefined): boolean {
  return by === 'user' || by === 'apiKey' || Boolean(filters.userIds?.length) || Boolean(filters.apiKeys?.length);
}

/**
 * The smallest sums that answer a question, each for its part of the range; the parts cover every day of it once.
 * Whole months come from the month cube and the edges from days, so the cost grows with the months, not the days. An edge
 * that is most of its month is that month less its other days.
 */
export function planOf({ startDate, endDate }: Range, { entities, days, sums = false }: Needs): PlanPart[] {
  if (!entities) return [{ cube: 'usage_daily_models', startDate, endDate }];
  if (days) return [{ cube: 'usage_daily', startDate, endDate }];
  const [head, tail] = [firstOfMonth(startDate), lastOfMonth(endDate)];
  const [before, after] = [countDays(head, startDate) - 1, countDays(endDate, tail) - 1];
  if (head === firstOfMonth(endDate)) {
    const asked = countDays(startDate, endDate);
    if (!pays(asked, before + after, sums)) return [{ cube: 'usage_daily', startDate, endDate }];
    return [
      { cube: 'usage_monthly', startDate: head, endDate: tail },
      ...less(head, before),
      ...less(addDays(endDate, 1), after),
    ];
  }
  const [wholeHead, wholeTail] = [
    pays(countDays(startDate, lastOfMonth(startDate)), before, sums),
    pays(countDays(firstOfMonth(endDate), endDate), after, sums),
  ];
  const from = wholeHead ? head : addDays(lastOfMonth(startDate), 1);
  const to = wholeTail ? tail : addDays(firstOfMonth(endDate), -1);
  return [
    ...(wholeHead ? [] : [{ cube: 'usage_daily' as const, startDate, endDate: addDays(from, -1) }]),
    ...(from <= to ? [{ cube: 'usage_monthly' as const, startDate: from, endDate: to }] : []),
    ...(wholeTail ? [] : [{ cube: 'usage_daily' as const, startDate: addDays(to, 1), endDate }]),
    ...(wholeHead ? less(head, before) : []),
    ...(wholeTail ? less(addDays(endDate, 1), after) : []),
  ];
}

/** Whether the month less `others` is cheaper than `asked` days of it; a month costs about as much as a day. */
const pays = (asked: number, others: number, sums: boolean) => others === 0 || (sums && others + 1 < asked);

const less = (startDate: Day, days: number): PlanPart[] =>
  days === 0 ? [] : [{ cube: 'usage_daily', startDate, endDate: addDays(startDate, days - 1), less: true }];

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
const lastOfMonth = (day: Day): Day => addDays(firstOfMonth(addDays(firstOfMonth(day), 31)), -1);
