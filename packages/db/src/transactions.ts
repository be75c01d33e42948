import { setTimeout as wait } from 'node:timers/promises';
import { TallyError } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { beginCommit } from './one-moment.ts';
import { type Executor, sql } from './run-sql.ts';

const SERIALIZATION_FAILURE = '40001';
const DEADLOCK = '40P01';
const RETRIED = new Set([SERIALIZATION_FAILURE, DEADLOCK]);
export const OUT_OF_RANGE = '22003';
const MAX_ATTEMPTS = 10;
/** Work under a lock reads Redis, whose commands may take 10 s. */
const LOCK_TIMEOUT = '20s';
const IDLE_TIMEOUT = '30s';
/** Batches of ten thousand lines do not fit into the default of 4 MB. */
const WORK_MEMORY = '32MB';

/**
 * Runs `work` in one transaction and commits when it returns. 40001 and 40P01 run it again, with jitter, so it must be
 * repeatable. Waits are bounded: 55P03 if a lock is held for 20 s. Throws TOTAL_LIMIT if a sum would exceed bigint.
 */
export async function inTransaction<T>(
  dataSource: DataSource,
  work: (transaction: Executor) => Promise<T>,
): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await dataSource.transaction(async ({ queryRunner }) => {
        const transaction: Executor = queryRunner!;
        await boundWaits(transaction);
        const result = await work(transaction);
        await beginCommit(dataSource, transaction);
        return result;
      });
    } catch (error) {
      if (!RETRIED.has(sqlState(error)) || attempt === MAX_ATTEMPTS) throw understood(error);
      await wait(Math.random() * 10 * 2 ** attempt);
    }
  }
}

/** Bounds each wait of a transaction for a lock, and for its client. */
export async function boundWaits(transaction: Executor): Promise<void> {
  await transaction.query(sql('bound-waits'), [LOCK_TIMEOUT, IDLE_TIMEOUT, WORK_MEMORY]);
}

/** Returns the SQLSTATE of a driver error; '' if it has none, as after a broken connection. */
export function sqlState(error: unknown): string {
  const code = (error as { driverError?: { code?: unknown } } | null)?.driverError?.code;
  return typeof code === 'string' && /^[0-9A-Z]{5}$/.test(code) ? code : '';
}

function understood(error: unknown): unknown {
  if (sqlState(error) !== OUT_OF_RANGE) return error;
  return new TallyError('TOTAL_LIMIT', 'A sum of this merchant would pass 9.2·10^18 units.', { cause: error });
}
