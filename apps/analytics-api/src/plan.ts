import {
  addDays,
  DAY_MS,
  type Day,
  dayOf,
  type Filters,
  type GroupBy,
  type Grouping,
  monthOf,
  type PlanPart,
  quarterMonthOf,
  TallyError,
} from '@tally/contracts';

type Range = { startDate: Day; endDate: Day };

/** What a query requires of the rollups it reads. */
export type Needs = {
  /** It groups or filters by user or API key, which the model rollups lack. */
  entities: boolean;
  /**
   * It covers all merchants without distinguishing them: `models`, by no other dimension than model and provider;
   * `users`, only by users.
   */
  platform?: 'models' | 'users' | undefined;
  /** It distinguishes days, which months and years do not. */
  days: boolean;
  /**
   * It needs only sums, so days may be subtracted from a month and months from a year. Lists of names do not allow
   * that: names of the subtracted part would be among them.
   */
  sums?: boolean;
};

type Length = 'year' | 'month' | 'quarterMonth' | 'day';

/** Estimates the rows of one period, which begins at `first`; Infinity if its rollup does not have it. */
export type RowsOf = (length: Length, first: Day) => number;

/**
 * Estimates for periods without counts: fewer users come every day than in a whole period. None after `today`. Whether a
 * quarter of a month is complete is not known.
 */
export const typicalRows =
  (today?: Day): RowsOf =>
  (length, first) =>
    length !== 'quarterMonth' && today && first > today
      ? 0
      : { day: 1, quarterMonth: Infinity, month: 2, year: 4 }[length];

/**
 * The known rows of years, months and their quarters, and the requests of days, each by its first day. Quarters before
 * `quartersTo` are complete.
 */
export type KnownRows = Record<'years' | 'months' | 'quarterMonths' | 'requests', ReadonlyMap<Day, number>> & {
  quartersTo: Day;
};

/** Estimates from counts: a day has at most as many rows as requests, and as its month has. */
export const knownRows =
  ({ years, months, quarterMonths, requests, quartersTo }: KnownRows): RowsOf =>
  (length, first) => {
    const of = (rows: ReadonlyMap<Day, number>, period: Day) => Math.max(0, rows.get(period) ?? 0);
    if (length === 'year') return of(years, first);
    if (length === 'quarterMonth') return first < quartersTo ? of(quarterMonths, first) : Infinity;
    const month = of(months, `${first.slice(0, 8)}01`);
    return length === 'month' ? month : Math.min(month, of(requests, first));
  };

/** Returns what the filters and the groupings of a query require. */
export function needsOf(
  filters: Omit<Filters, 'startDate' | 'endDate'>,
  ...groupings: readonly Grouping[]
): Pick<Needs, 'entities' | 'platform'> {
  const asks = (dimension: GroupBy, list: readonly string[] | undefined) =>
    groupings.includes(dimension) || Boolean(list?.length);
  const byTeam = groupings.includes('team') || Boolean(filters.teams?.length);
  const users = asks('user', filters.userIds);
  const keys = asks('apiKey', filters.apiKeys) || byTeam;
  const models = asks('model', filters.models) || asks('provider', filters.providers);
  const entities = users || keys;
  if (byTeam || asks('merchant', filters.merchantIds)) return { entities };
  if (!entities) return { entities, platform: 'models' };
  return keys || models ? { entities } : { entities, platform: 'users' };
}

/**
 * Returns the rollups from which a query reads the fewest rows, by the estimates given. The sum of the parts, minus
 * those marked `less`, covers every day of the range once.
 */
export function planOf(
  range: Range,
  { entities, platform, days, sums = false }: Needs,
  rowsOf: RowsOf = typicalRows(),
): PlanPart[] {
  const grains = entities ? (platform ? USERS : ENTITIES) : platform ? PLATFORM : MODELS;
  return joined(cover(range, days ? grains.slice(-1) : grains, { sums, rowsOf }).parts);
}

/** The length of a row of the rollups whose rows are known. */
const LENGTH: Partial<Record<PlanPart['cube'], Length>> = {
  usage_yearly: 'year',
  usage_monthly: 'month',
  usage_quarter_months: 'quarterMonth',
  usage_platform_users: 'month',
  usage_daily: 'day',
};

/** Estimates the rows that a plan reads from rollups by user and API key; the others are small. */
export function rowsIn(plan: readonly PlanPart[], rowsOf: RowsOf): number {
  return plan.reduce((sum, { cube, startDate, endDate }) => {
    const length = LENGTH[cube];
    if (!length) return sum;
    const grain = ENTITIES.find((each) => each.length === length)!;
    let rows = sum;
    for (let day = startDate; day <= endDate; ) {
      const period = grain.periodOf(day);
      rows += rowsOf(length, period.startDate);
      day = addDays(period.endDate, 1);
    }
    return rows;
  }, 0);
}

/** Returns a plan. Throws TOO_MANY_ROWS, before any read, if it would read too much. */
export function bounded(plan: PlanPart[], rowsOf: RowsOf, maxRows: number): PlanPart[] {
  const estimatedRows = rowsIn(plan, rowsOf);
  if (estimatedRows <= maxRows) return plan;
  throw new TallyError(
    'TOO_MANY_ROWS',
    `The query would read about ${estimatedRows} rows; at most ${maxRows} are read.`,
    { details: { estimatedRows, maxRows } },
  );
}

/** Periods of one length, and the rollup that has their sums. */
type Grain = { cube: PlanPart['cube']; length: Length; periodOf(day: Day): Range };

/** The cost of a period beside its rows: of two plans with the same rows, the one with fewer periods is better. */
const PERIOD_COST = 0.01;

const lastBefore = (day: Day): Day => addDays(day, -1);

const days = (cube: Grain['cube']): Grain => ({
  cube,
  length: 'day',
  periodOf: (day) => ({ startDate: day, endDate: day }),
});
const months = (cube: Grain['cube']): Grain => ({ cube, length: 'month', periodOf: monthOf });
const YEARS: Grain = {
  cube: 'usage_yearly',
  length: 'year',
  periodOf: (day) => ({ startDate: `${day.slice(0, 5)}01-01`, endDate: `${day.slice(0, 5)}12-31` }),
};

/** The rollups of each need, coarsest first. */
const QUARTERS: Grain = { cube: 'usage_quarter_months', length: 'quarterMonth', periodOf: quarterMonthOf };
const ENTITIES = [YEARS, months('usage_monthly'), QUARTERS, days('usage_daily')];
const MODELS = [months('usage_monthly_models'), days('usage_daily_models')];
const PLATFORM = [months('usage_platform_monthly'), days('usage_platform_daily')];
const USERS = [months('usage_platform_users'), QUARTERS, days('usage_daily')];

type Cover = { parts: PlanPart[]; cost: number };

/**
 * Splits a range into whole periods of the first grain and, at its edges, of the finer ones. An edge that covers most
 * of its period becomes that period minus the rest.
 */
function cover(range: Range, [grain, ...finer]: Grain[], needs: { sums: boolean; rowsOf: RowsOf }): Cover {
  const covers: Cover[] = [];
  for (let from = range.startDate; from <= range.endDate; ) {
    const period = grain!.periodOf(from);
    const isLast = period.endDate >= range.endDate;
    const to = isLast ? range.endDate : period.endDate;
    const rests = [
      { startDate: period.startDate, endDate: lastBefore(from) },
      { startDate: addDays(to, 1), endDate: period.endDate },
    ].filter(({ startDate, endDate }) => startDate <= endDate);
    const whole: Cover = {
      parts: [{ cube: grain!.cube, ...period }],
      cost: needs.rowsOf(grain!.length, period.startDate) + PERIOD_COST,
    };
    const finely = (part: Range) => cover(part, finer, needs);
    const isReadable = Number.isFinite(whole.cost);
    const choices = rests.length === 0 && isReadable ? [whole] : [finely({ startDate: from, endDate: to })];
    if (rests.length > 0 && isReadable && needs.sums)
      choices.push(together([whole, ...rests.map(finely).map(takenAway)]));
    covers.push(choices.reduce((best, choice) => (choice.cost < best.cost ? choice : best)));
    from = addDays(to, 1);
  }
  return together(covers);
}

function together(covers: readonly Cover[]): Cover {
  return { parts: covers.flatMap(({ parts }) => parts), cost: covers.reduce((whole, { cost }) => whole + cost, 0) };
}

/** Subtracting from a subtracted part adds again. */
function takenAway({ parts, cost }: Cover): Cover {
  return { parts: parts.map(({ less, ...part }) => (less ? part : { ...part, less: true })), cost };
}

/** Merges consecutive parts of the same rollup. */
function joined(parts: readonly PlanPart[]): PlanPart[] {
  const whole: PlanPart[] = [];
  for (const part of parts) {
    const before = whole.findLast(({ cube, less }) => cube === part.cube && less === part.less);
    if (before && addDays(before.endDate, 1) === part.startDate) before.endDate = part.endDate;
    else whole.push({ ...part });
  }
  return whole;
}

/**
 * Like planOf, for periods that begin at the moments `starts` and end at `end`: UTC days if all borders are, else
 * quarter hours, and the journal for users or keys within a day.
 */
export function planSeries(
  { starts, end }: { starts: readonly number[]; end: number },
  { entities, platform, days }: Needs,
): PlanPart[] {
  const range = { startDate: dayOf(starts[0]!), endDate: dayOf(end - 1) };
  if ([...starts, end].every((at) => at % DAY_MS === 0)) return planOf(range, { entities, platform, days });
  return [{ cube: entities ? 'usage_events' : 'usage_quarter_hours', ...range }];
}
