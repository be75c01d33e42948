import type { FilterSearch, MeasureId } from '../../measures.ts';
import type { Interval } from '../../search.ts';
import type { Range } from '../../time.ts';

/** The view of the explorer: the address, with defaults for what it leaves open. */
export type Shown = {
  range: Range;
  measure: MeasureId;
  interval: Interval;
  timeZone: string;
  filters: FilterSearch;
  chart: 'bars' | 'lines';
  compare: boolean;
};

export const INTERVAL_NAMES: Record<Interval, string> = {
  '15m': '15 minutes',
  hour: 'Hour',
  day: 'Day',
  week: 'Week',
  month: 'Month',
};

/** Explains why nothing is shown, and what to do. */
export const nothingFound = (filters: FilterSearch): string =>
  Object.keys(filters).length > 0
    ? 'Nothing matches all filters in this range. Remove a filter, or choose other days.'
    : 'Nothing was recorded on these days. Choose others, or record some usage.';
