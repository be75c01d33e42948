import { type Executor, sql } from '../run-sql.ts';
import type { JournalLine } from './journal-line.ts';

/**
 * Adds the lines that this transaction has counted to the spend of these budgets. The journal calls it after its
 * append.
 */
export async function countBudgets(
  transaction: Executor,
  lines: readonly JournalLine[],
  budgets: readonly string[],
): Promise<void> {
  const days = [...new Set(lines.map((line) => line.date))];
  await transaction.query(sql('count-budgets'), [days, budgets]);
}
