import type { Db, PricedCell } from '@tally/db';
import { type PriceList, unitRatesOf } from './price-list.ts';

type Prices = Db['prices'];

/** Identifies a merchant's day. */
export const dayKey = ({ merchant_id, date }: Pick<PricedCell, 'merchant_id' | 'date'>): string =>
  JSON.stringify([merchant_id, date]);

/** Rates of a cell whose events are all voided: what re-ratings added to it is due back. */
const NOTHING_DUE = unitRatesOf(new Map());

const NO_TYPES: ReadonlySet<string> = new Set();

/** Reads which metric types of a price list the days of a range have, and returns how the list rates a cell of them. */
export async function readCellRates(
  store: Pick<Prices, 'metricDays'>,
  scope: Omit<Parameters<Prices['metricDays']>[0], 'metricTypes'>,
  list: PriceList,
): Promise<(cell: PricedCell) => ReturnType<PriceList['ratesOf']>> {
  const types = new Map<string, Set<string>>();
  const { metricTypes } = list;
  if (metricTypes.length > 0) {
    for (const row of await store.metricDays({ ...scope, metricTypes })) {
      const day = dayKey(row);
      types.set(day, (types.get(day) ?? new Set()).add(row.metric_type));
    }
  }
  return (cell) =>
    cell.priced_events === 0n ? NOTHING_DUE : list.ratesOf(cell, cell, types.get(dayKey(cell)) ?? NO_TYPES);
}
