import { OUT_OF_RANGE, sqlState } from './transactions.ts';

/** `units_sum` adds bigints and fails on overflow; `sum` makes a numeric of each group, which takes twice as long. */
export type SumOf = 'sum' | 'units_sum';

/** Queries with the faster sum, and with the other one if a value or a sum exceeds a bigint. */
export async function exactly<T>(ask: (sum: SumOf) => Promise<T>): Promise<T> {
  try {
    return await ask('units_sum');
  } catch (error) {
    if (sqlState(error) !== OUT_OF_RANGE) throw error;
    return ask('sum');
  }
}
