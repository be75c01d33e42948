import { type Executor, sql } from '../run-sql.ts';
import type { JournalLine } from './journal-line.ts';

/** Adds the lines that this transaction has counted, in this flush, to the spend of these budgets. */
export async function countBudgets(
  transaction: Executor,
  flushId: string,
  lines: readonly JournalLine[],
  budgets: readonly string[],
): Promise<void> {
  const days = [...new Set(lines.map((line) => line.date))];
  await transaction.query(sql('count-budgets'), [flushId, days, budgets]);
}
