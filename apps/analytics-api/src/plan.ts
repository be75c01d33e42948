import { addDays, DAY_MS, type Day, dayOf, type Filters, type GroupBy, monthOf, type PlanPart } from '@tally/contracts';

type Range = { startDate: Day; endDate: Day };

/** What a question needs of the sums it is read from. */
export type Needs = {
  /** It groups or filters by user or api key, which the model rollups have dropped. */
  entities: boolean;
  /** It is about all merchants and tells none apart: `models`, by no other dimension than those; `users`, by users alone. */
  platform?: 'models' | 'users' | undefined;
  /** It tells days apart, which the month and the year cube have dropped. */
  days: boolean;
  /**
   * It asks for sums alone, so that days may be taken away from a month and months from a year. Where names are listed
   * without their sums, those of what is taken away would be among them.
   */
  sums?: boolean;
  /** Reading days after it costs nothing, because nothing is counted for them yet. */
  today?: Day;
};

/** What the filters and the grouping of a query need. */
export function needsOf(
  filters: Omit<Filters, 'startDate' | 'endDate'>,
  by?: GroupBy | undefined,
): Pick<Needs, 'entities' | 'platform'> {
  const asks = (dimension: GroupBy, list: readonly string[] | undefined) => by === dimension || Boolean(list?.length);
  const users = asks('user', filters.userIds);
  const keys = asks('apiKey', filters.apiKeys);
  const models = asks('model', filters.models) || asks('provider', filters.providers);
  const entities = users || keys;
  if (asks('merchant', filters.merchantIds)) return { entities };
  if (!entities) return { entities, platform: 'models' };
  return keys || models ? { entities } : { entities, platform: 'users' };
}

/**
 * The smallest sums that answer a question, each for its part of the range; added up, less those marked `less`, the parts
 * cover every day of it once.
 */
export function planOf(range: Range, { entities, platform, days, ...needs }: Needs): PlanPart[] {
  const grains = entities ? (platform ? USERS : ENTITIES) : platform ? PLATFORM : MODELS;
  return joined(cover(range, days ? grains.slice(-1) : grains, needs).parts);
}

/** Periods of one length, and the cube that has their sums. */
type Grain = {
  cube: PlanPart['cube'];
  /** What reading one period costs: fewer than all who come in it come every day. */
  cost: number;
  periodOf(day: Day): Range;
};

const lastBefore = (day: Day): Day => addDays(day, -1);

const days = (cube: Grain['cube']): Grain => ({
  cube,
  cost: 1,
  periodOf: (day) => ({ startDate: day, endDate: day }),
});
const months = (cube: Grain['cube']): Grain => ({ cube, cost: 2, periodOf: monthOf });
const YEARS: Grain = {
  cube: 'usage_yearly',
  cost: 4,
  periodOf: (day) => ({ startDate: `${day.slice(0, 5)}01-01`, endDate: `${day.slice(0, 5)}12-31` }),
};

/** The rollups of each need, coarsest first. */
const ENTITIES = [YEARS, months('usage_monthly'), days('usage_daily')];
const MODELS = [months('usage_monthly_models'), days('usage_daily_models')];
const PLATFORM = [months('usage_platform_monthly'), days('usage_platform_daily')];
const USERS = [months('usage_platform_users'), days('usage_daily')];

type Cover = { parts: PlanPart[]; cost: number };

/**
 * A range as whole periods of the first grain and, at its edges, of the finer ones. An edge that is most of its period is
 * that period less the rest of it.
 */
function cover(range: Range, [grain, ...finer]: Grain[], needs: Pick<Needs, 'sums' | 'today'>): Cover {
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
      cost: needs.today && period.startDate > needs.today ? 0 : grain!.cost,
    };
    const finely = (part: Range) => cover(part, finer, needs);
    const choices = rests.length === 0 ? [whole] : [finely({ startDate: from, endDate: to })];
    if (rests.length > 0 && needs.sums) choices.push(together([whole, ...rests.map(finely).map(takenAway)]));
    covers.push(choices.reduce((best, choice) => (choice.cost < best.cost ? choice : best)));
    from = addDays(to, 1);
  }
  return together(covers);
}

function together(covers: readonly Cover[]): Cover {
  return { parts: covers.flatMap(({ parts }) => parts), cost: covers.reduce((whole, { cost }) => whole + cost, 0) };
}

/** What is taken away from something that is taken away is read after all. */
function takenAway({ parts, cost }: Cover): Cover {
  return { parts: parts.map(({ less, ...part }) => (less ? part : { ...part, less: true })), cost };
}

/** Parts of the same sums that follow each other as one. */
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
 * Like planOf, for periods that begin at the moments `starts` and end at `end`: days of UTC where all of them are, else
 * quarters of an hour, and the journal where users or keys must be told apart within a day.
 */
export function planSeries(
  { starts, end }: { starts: readonly number[]; end: number },
  { entities, platform, days }: Needs,
): PlanPart[] {
  const range = { startDate: dayOf(starts[0]!), endDate: dayOf(end - 1) };
  if ([...starts, end].every((at) => at % DAY_MS === 0)) return planOf(range, { entities, platform, days });
  return [{ cube: entities ? 'usage_events' : 'usage_quarter_hours', ...range }];
}
