import { holdLock, LOCKS, tryLock } from '../locks.ts';
import type { Executor } from '../run-sql.ts';

/** The lock for writing rollups of meters and for changing the set of meters: one transaction at a time. */
export async function lockMeters(transaction: Executor): Promise<void> {
  await holdLock(transaction, LOCKS.meters);
}

/** Returns false if another transaction holds the lock. */
export function tryLockMeters(transaction: Executor): Promise<boolean> {
  return tryLock(transaction, LOCKS.meters);
}
