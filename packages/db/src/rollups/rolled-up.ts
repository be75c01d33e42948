import type { Day } from '@tally/contracts';
import { z } from 'zod';
import { holdLock, LOCKS, shareLock } from '../locks.ts';
import { DateText } from '../rows.ts';
import { type Executor, runSql } from '../run-sql.ts';

/**
 * The days in the rollups of months and years: those before `date`, and of `date` the merchants up to `merchantId`.
 * Other days are open: they are read from the rollups of days.
 */
export type RolledUp = { date: Day; merchantId: string };

const Row = z
  .object({ date: DateText, merchant_id: z.string() })
  .transform(({ date, merchant_id }): RolledUp => ({ date, merchantId: merchant_id }));

/**
 * Returns which days are rolled up, and keeps them so until the transaction ends. Writers of the rollups of days and
 * months hold this, since no day is rolled up meanwhile. Take it after the locks of merchants.
 */
export async function holdRolledUp(transaction: Executor): Promise<RolledUp> {
  await shareLock(transaction, LOCKS.rolledUp);
  // A separate statement: the one that waited for the lock has an older snapshot.
  const [row] = await runSql(transaction, 'rolled-up', [], Row);
  return row!;
}

/** Waits until nobody holds the rolled-up days; then only the caller may change them. */
export async function lockRolledUp(transaction: Executor): Promise<void> {
  await holdLock(transaction, LOCKS.rolledUp);
  // Its statements subtract what is not derived. One that was planned before a day got a partition would miss its events.
  await shareLock(transaction, LOCKS.partitions);
}
