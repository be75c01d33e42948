import { type Executor, sql } from './run-sql.ts';

/**
 * The advisory locks of Tally, each with its number. Where a lock is of one thing among many (a merchant, a day, a run), the
 * number is the first of two keys or the seed of a hash.
 */
export const LOCKS = {
  migrations: 7420,
  /** Of a merchant; see `MERCHANT_LOCKS`. Shared by those that count, exclusive for corrections. */
  merchant: 7421,
  /** Shared by those that count, exclusive for the closing of days. */
  closing: 7422,
  /** Of a run of rollups, and of a period that one computes. */
  rollupRun: 7423,
  rollupPeriod: 7424,
  litellmPull: 7425,
  /** Creating partitions. */
  partitions: 7426,
  /** Shared by those that derive, exclusive for the adding of days to months and years. */
  rolledUp: 7427,
  /** Of the document of a day. */
  dayDocument: 7430,
  meters: 7431,
  /** Shared by those that count events directly, exclusive for who declares the scale of a metric type. */
  scales: 7434,
  /** Matching reports of calls of LiteLLM. */
  litellmClaims: 7446,
} as const;

/** Waits for a lock; the transaction holds it alone until it ends. */
export async function holdLock(transaction: Executor, lock: number): Promise<void> {
  await transaction.query(sql('locks/hold'), [lock]);
}

/** Waits until nobody holds a lock alone, and shares it until the transaction ends. */
export async function shareLock(transaction: Executor, lock: number): Promise<void> {
  await transaction.query(sql('locks/share'), [lock]);
}

/** Takes a lock for the transaction; returns false where someone holds it. */
export async function tryLock(transaction: Executor, lock: number): Promise<boolean> {
  const [row] = (await transaction.query(sql('locks/try'), [lock])) as { held: boolean }[];
  return row!.held;
}
