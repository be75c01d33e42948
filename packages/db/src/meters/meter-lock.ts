import { LOCKS } from '../locks.ts';
import type { Executor } from '../run-sql.ts';

/** Held by whoever writes rollups of meters, or changes which meters there are: one transaction at a time. */
export async function lockMeters(transaction: Executor): Promise<void> {
  await transaction.query('select pg_advisory_xact_lock($1)', [LOCKS.meters]);
}

/** Returns false where another transaction holds the lock. */
export async function tryLockMeters(transaction: Executor): Promise<boolean> {
  const [row] = (await transaction.query('select pg_try_advisory_xact_lock($1) as mine', [LOCKS.meters])) as {
    mine: boolean;
  }[];
  return row!.mine;
}
