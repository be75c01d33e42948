import type { Meter } from '@tally/contracts';
import { dimensionOf, type FilterSearch, type GroupId, isDimension, type PropertyFilters } from '../../measures.ts';
import type { Kind } from '../../quantity.ts';
import { addDays, daysOfMonth, monthOf, type Range, startOf } from '../../time.ts';

/** The windows of meters. */
export const WINDOWS = ['hour', 'day', 'week', 'month'] as const;
export type Window = (typeof WINDOWS)[number];

export const kindOfMeter = ({ unit }: Meter): Kind => (unit === 'USD' ? 'money' : 'count');

/** True where the values of parts add up to the value of the whole. */
export const isAdditive = ({ aggregation }: Meter): boolean => aggregation === 'SUM' || aggregation === 'COUNT';

export const hasPercentiles = ({ aggregation }: Meter): boolean => aggregation === 'PERCENTILE';

export const percentileName = (percentile = 50): string => (percentile === 50 ? 'median' : `p${percentile}`);

/** Returns what a meter can be grouped by. */
export const groupsOf = ({ merchantId, dimensions }: Meter, bound: boolean): GroupId[] => [
  ...(bound || merchantId !== null ? [] : ['merchant' as const]),
  ...(dimensions as GroupId[]),
];

/** Returns the range with its first and last window made whole, as the API asks for. */
export function wholeWindows(range: Range, window: Window): Range {
  if (window === 'month')
    return {
      startDate: `${monthOf(range.startDate)}-01`,
      endDate: daysOfMonth(monthOf(range.endDate)).endDate,
    };
  if (window !== 'week') return range;
  const sinceMonday = (day: string) => (new Date(startOf(day)).getUTCDay() + 6) % 7;
  return {
    startDate: addDays(range.startDate, -sinceMonday(range.startDate)),
    endDate: addDays(range.endDate, 6 - sinceMonday(range.endDate)),
  };
}

/** Returns what is chosen of a meter, as the API takes it: its filters, and which percentile. */
export function meterFilters(
  meter: Meter,
  filters: FilterSearch,
  { where = {}, percentile }: { where?: PropertyFilters | undefined; percentile?: number | undefined } = {},
) {
  const named = Object.fromEntries(
    (meter.dimensions as GroupId[]).flatMap((id) => {
      const values = isDimension(id) ? filters[dimensionOf(id).filter] : where[id];
      return values && values.length > 0 ? [[id, values] as const] : [];
    }),
  );
  const merchantIds = meter.merchantId ? [meter.merchantId] : filters.merchants;
  return {
    ...(merchantIds && merchantIds.length > 0 && { merchantIds }),
    ...(Object.keys(named).length > 0 && { filters: named }),
    ...(hasPercentiles(meter) && percentile !== undefined && { percentile }),
  };
}

/** The metric type whose sum a meter is, so that its numbers can be explained; undefined where it counts otherwise. */
export function metricOfMeter({ aggregation, metricType, eventType, filters }: Meter): string | undefined {
  if (eventType !== null || Object.keys(filters).length > 0) return undefined;
  if (aggregation === 'COUNT') return 'requests';
  return aggregation === 'SUM' ? (metricType ?? undefined) : undefined;
}
