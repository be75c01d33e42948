import { formatCost, formatQuantity, formatUnits, type ScaleOf, type Units } from '@tally/contracts';
import type { MeterDrift } from '@tally/db';
import type { Drift } from './reconcile.ts';

export { createReconcile, type Drift, type Reconcile } from './reconcile.ts';
export { createRepair, type Repair } from './repair.ts';

/** Presents a drift to callers: quantities in place of units. */
export function presentDrift(
  { journal, daily, usage, live, dailyModels, quarterHours, monthly, yearly, drift, ...row }: Drift,
  scaleOf?: ScaleOf,
) {
  const format = (units: Units) =>
    row.rollup === 'usage_priced' && row.metricType === 'priced_cost'
      ? formatCost(units)
      : formatQuantity(row.metricType, units, scaleOf);
  const kept = (units: Units | null) => (units === null ? null : format(units));
  return {
    ...row,
    journal: format(journal),
    daily: kept(daily),
    usage: format(usage),
    live: kept(live),
    dailyModels: kept(dailyModels),
    quarterHours: kept(quarterHours),
    monthly: kept(monthly),
    yearly: kept(yearly),
    drift: format(drift),
  };
}

/** Presents a drift of a meter to callers: amounts by its scale. */
export function presentMeterDrift({ scale, first, ...row }: MeterDrift): Omit<MeterDrift, 'scale'> {
  const format = (units: string | null) => units && formatUnits(BigInt(units), scale);
  return { ...row, first: { ...first, journal: format(first.journal), stored: format(first.stored) } };
}
