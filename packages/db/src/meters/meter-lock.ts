import { holdLock, LOCKS, tryLock } from '../locks.ts';
import type { Executor } from '../run-sql.ts';

/** Held by whoever writes rollups of meters, or changes which meters there are: one transaction at a time. */
export async function lockMeters(transaction: Executor): Promise<void> {
  await holdLock(transaction, LOCKS.meters);
}

/** Returns false where another transaction holds the lock. */
export function tryLockMeters(transaction: Executor): Promise<boolean> {
  return tryLock(transaction, LOCKS.meters);
}
