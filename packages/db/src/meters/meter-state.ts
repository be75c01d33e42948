import type { Day } from '@tally/contracts';
import type { QueryRunner } from 'typeorm';
import { z } from 'zod';
import { MeterEntity, type MeterRow } from '../entities/meter.ts';
import { holdLock, LOCKS, tryLock } from '../locks.ts';
import { DateText } from '../rows.ts';
import { type Executor, runSql } from '../run-sql.ts';
import { IsNull } from '../typeorm.ts';

const StateRow = z
  .object({ run: z.string(), quarters_from: DateText })
  .transform(({ run, quarters_from }) => ({ run, quartersFrom: quarters_from }));
const QuartersFromRow = z.object({ quarters_from: DateText });

/** The lock for writing rollups of meters and for changing the set of meters: one transaction at a time. */
export async function lockMeters(transaction: Executor): Promise<void> {
  await holdLock(transaction, LOCKS.meters);
}

/** Returns false if another transaction holds the lock. */
export function tryLockMeters(transaction: Executor): Promise<boolean> {
  return tryLock(transaction, LOCKS.meters);
}

/** Returns the active meters. They do not change in a transaction that holds the lock; it is a query runner. */
export function activeMeters(transaction: Executor): Promise<MeterRow[]> {
  return (transaction as QueryRunner).manager.findBy(MeterEntity, { removedAt: IsNull() });
}

/** Starts the next derivation run. */
export async function nextRun(transaction: Executor): Promise<{ run: string; quartersFrom: Day }> {
  return (await runSql(transaction, 'meters/next-run', [], StateRow))[0]!;
}

/** Returns the first day with quarter hours. Earlier days have only their sums. */
export async function firstDayOfQuarters(executor: Executor): Promise<Day> {
  return (await runSql(executor, 'meters/quarters-from', [], QuartersFromRow))[0]!.quarters_from;
}
