import type { Meter } from '@tally/contracts';
import type { Question } from '../../copy.ts';
import { apiFilters, DIMENSIONS, type GroupId, isDimension, readFilters } from '../../measures.ts';
import { type ExplorerSearch, INTERVALS, type Interval } from '../../search.ts';
import { countDays, PRESETS, type Range } from '../../time.ts';
import { groupsOf, isAdditive, meterFilters, WINDOWS, type Window, wholeWindows } from './meter.ts';

/** The view of the explorer: the address, with defaults for what it leaves open. */
export type Shown = ReturnType<typeof shownBy>;

/** Changes the address; `undefined` leaves a parameter out. */
export type ChangeSearch = (next: { [K in keyof ExplorerSearch]?: ExplorerSearch[K] | undefined }) => void;

/** Returns the view of an address about a meter, or about a measure. */
export function shownBy(search: ExplorerSearch, meter: Meter | undefined, isBound: boolean) {
  const usual = PRESETS.find(({ id }) => id === '30d')!.range();
  const startDate = search.from ?? usual.startDate;
  const asked: Range = { startDate, endDate: search.to && search.to >= startDate ? search.to : usual.endDate };
  const groups: GroupId[] = meter
    ? groupsOf(meter, isBound)
    : DIMENSIONS.map(({ id }) => id).filter((id) => id !== 'merchant' || !isBound);
  const first = meter ? (groups.find((id) => id !== 'merchant') ?? 'time') : 'model';
  const wanted = search.by ?? first;
  const by = wanted === 'time' || groups.includes(wanted) ? wanted : first;
  const and = groups.find((id) => by !== 'time' && id === search.and && id !== by);
  const intervals: readonly Interval[] = meter ? WINDOWS : INTERVALS;
  const interval = intervals.find((each) => each === search.interval) ?? usualInterval(asked);
  const window: Window = interval === '15m' ? 'hour' : interval;
  const crosses = and !== undefined && (!meter || isAdditive(meter));
  const pivot = crosses && search.view === 'pivot';
  const measure = search.measure ?? 'cost';
  const sort = search.sort ?? measure;
  return {
    ...{ asked, measure, groups, by, and, intervals, interval, window, crosses, pivot, sort },
    /** For a meter, whole windows. */
    range: meter ? wholeWindows(asked, window) : asked,
    timeZone: search.tz ?? 'UTC',
    filters: readFilters(search),
    where: search.where,
    percentile: search.percentile,
    chart: search.chart ?? ('bars' as const),
    compare: search.compare === 'previous',
    canTellSince: !meter && by !== 'time' && !pivot,
    /** A day: shows what changed after its end. */
    since: search.since,
    order: search.order ?? (sort === 'key' ? ('asc' as const) : ('desc' as const)),
    cursor: search.cursor,
  };
}

/** Returns the dimensions of a view about a measure: only meters have other ones. */
export const dimensionsOf = ({ by, and }: Shown) => ({
  by: isDimension(by) ? by : ('model' as const),
  and: isDimension(and) ? and : undefined,
});

/** Returns the query of the API that gives a view. */
export function questionOf(shown: Shown, meter: Meter | undefined): Question {
  const { range, filters, by, and, window, interval, timeZone, sort: sortBy, order } = shown;
  if (meter)
    return {
      ...{ meter: meter.key, ...range, ...meterFilters(meter, filters, shown) },
      ...{ window: by === 'time' ? window : 'total', timeZone },
      ...(by !== 'time' && { groupBy: and ? [by, and] : [by] }),
    };
  const asked = { ...range, ...apiFilters(filters) };
  if (by === 'time') return { ...asked, interval, timeZone };
  const dimensions = dimensionsOf(shown);
  return { ...asked, by: dimensions.and ? [dimensions.by, dimensions.and] : dimensions.by, sortBy, order };
}

/** Returns an interval that gives a chart 50 to 400 points, if possible. */
function usualInterval(range: Range): Interval {
  const days = countDays(range);
  return days <= 3 ? 'hour' : days <= 400 ? 'day' : 'month';
}

export const INTERVAL_NAMES: Record<Interval, string> = {
  '15m': '15 minutes',
  hour: 'Hour',
  day: 'Day',
  week: 'Week',
  month: 'Month',
};

/** Explains why nothing is shown, and what to do. */
export const nothingFound = (filters: Shown['filters']): string =>
  Object.keys(filters).length > 0
    ? 'Nothing matches all filters in this range. Remove a filter, or choose other days.'
    : 'Nothing was recorded on these days. Choose others, or record some usage.';
