import type { BillReason } from '@tally/contracts';
import type { FilterSearch, GroupId, MeasureId, PropertyFilters } from './measures.ts';
import type { Provider } from './pages/bills/names.ts';

/** Search parameters as they stand in the address: the whole state of a page. */
export type Search = Record<string, unknown>;

export const oneOf = <T extends string>(value: unknown, options: readonly T[]): T | undefined =>
  options.find((option) => option === value);
export const textOf = (value: unknown): string | undefined =>
  typeof value === 'string' && value !== '' ? value.slice(0, 1000) : undefined;

export const inOrder = (from: string, to: string) => (from <= to ? { from, to } : { from: to, to: from });

/** Leaves out unset parameters, so that addresses stay short. */
export function compact<T extends object>(search: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(search).filter(([, value]) => value !== undefined)) as never;
}

export type OverviewSearch = { month?: string; measure?: MeasureId; merchants?: string[] };
export type ExplorerSearch = FilterSearch & {
  from?: string;
  to?: string;
  measure?: MeasureId;
  /** The key of a meter, in place of a measure; `of`: of the merchant that it belongs to. */
  meter?: string;
  of?: string;
  where?: PropertyFilters;
  /** Of a meter of percentiles; absent: the median. */
  percentile?: number;
  by?: GroupId | 'time';
  /** The second dimension. */
  and?: GroupId;
  view?: 'pivot';
  interval?: Interval;
  tz?: string;
  sort?: MeasureId | 'key';
  order?: 'asc' | 'desc';
  compare?: 'previous';
  /** A day: shows what changed after its end. */
  since?: string;
  chart?: 'bars' | 'lines';
  cursor?: string;
};
export type Interval = '15m' | 'hour' | 'day' | 'week' | 'month';
export const PERCENTILES: readonly number[] = [50, 75, 90, 95, 99];
export const INTERVALS: readonly Interval[] = ['15m', 'hour', 'day', 'week', 'month'];
export type BillsSearch = {
  provider?: Provider;
  from?: string;
  to?: string;
  merchants?: string[];
  reason?: BillReason;
  sort?: 'difference';
};
export type PriceAgainSearch = { from?: string; to?: string; merchants?: string[] };
export type AuditSearch = { from?: string; to?: string; actor?: string; action?: string };
export type ExplainSearch = FilterSearch & { metric: string; from: string; to: string };
export const DELIVERY_STATES = ['pending', 'delivered', 'failed'] as const;
export type DeliveryState = (typeof DELIVERY_STATES)[number];
