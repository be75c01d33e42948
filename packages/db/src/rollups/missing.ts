import type { Day } from '@tally/contracts';
import { z } from 'zod';
import { DateText } from '../rows.ts';
import { type Executor, runSql } from '../run-sql.ts';
import type { RolledUp } from './rolled-up.ts';

/** What derived rollups lack at one moment; read together with them. */
export type Missing = {
  /** Flushes that are not derived yet, those of them without rows in `usage_flush_sums`, and the days of their events. */
  flushes?: { ids: string[]; unsummed: string[]; first: Day; last: Day } | undefined;
  /** Months and years lack the days that are not rolled up. */
  rolledUp: RolledUp;
  /** The same for quarters of a month; `date` is the first day of the quarter. */
  quarters: RolledUp;
};

const ALL: RolledUp = { date: '9999-12-31', merchantId: '' };
/** For tables that the counting transaction writes: they lack nothing. */
export const NOTHING_MISSING: Missing = { rolledUp: ALL, quarters: ALL };

/** Returns what derived rollups lack at the moment of a transaction. */
export async function missingOf(transaction: Executor): Promise<Missing> {
  const [row] = await runSql(transaction, 'pending-flushes', [], MissingRow);
  const { ids, unsummed, first, last, date, merchant_id: merchantId, quarter_month, quarter_merchant } = row!;
  const rolledUp = { date, merchantId };
  const quarters = { date: quarter_month, merchantId: quarter_merchant };
  const missing = { rolledUp, quarters };
  return first === null || last === null ? missing : { ...missing, flushes: { ids, unsummed, first, last } };
}

const MissingRow = z.object({
  ids: z.array(z.string()),
  unsummed: z.array(z.string()),
  first: DateText.nullable(),
  last: DateText.nullable(),
  date: DateText,
  merchant_id: z.string(),
  quarter_month: DateText,
  quarter_merchant: z.string(),
});
