import { type Executor, sql } from '../run-sql.ts';
import type { JournalLine } from './journal-line.ts';

/** Adds the lines that this transaction has counted, in this flush, to the spend of budgets; `ways` to find these. */
export async function countBudgets(
  transaction: Executor,
  flushId: string,
  lines: readonly JournalLine[],
  ways: readonly string[],
): Promise<void> {
  const days = [...new Set(lines.map((line) => line.date))];
  // Postgres expects one event of the flush, and would compare each with every budget, for seconds.
  await transaction.query('set local enable_nestloop = off');
  await transaction.query(sql('count-budgets'), [flushId, days, ways]);
  await transaction.query('set local enable_nestloop = on');
}
