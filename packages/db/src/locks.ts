import { type Executor, sql } from './run-sql.ts';

/**
 * The advisory locks of Tally, each with its number. If a lock covers one of many objects (a merchant, a day, a run),
 * the number is the first of two keys or the seed of a hash.
 */
export const LOCKS = {
  migrations: 7420,
  /** A merchant; see `MERCHANT_LOCKS`. Shared by counting transactions, exclusive for corrections. */
  merchant: 7421,
  /** Shared by counting transactions, exclusive for closing days. */
  closing: 7422,
  /** A run of rollups, and a period that one computes. */
  rollupRun: 7423,
  rollupPeriod: 7424,
  litellmPull: 7425,
  /** Exclusive for creating partitions, shared by whoever subtracts what is not derived in one statement. */
  partitions: 7426,
  /** Shared by derivations, exclusive for adding days to months and years. */
  rolledUp: 7427,
  /** The snapshot of a day. */
  dayDocument: 7430,
  meters: 7431,
  /** On Citus, shared by reads of derived rollups, exclusive while one is committed; see one-moment.ts. */
  moment: 7432,
  /** On Citus, shared by counting transactions while they commit; see one-moment.ts. */
  commit: 7433,
  /** Shared by direct counting, exclusive for declaring the scale of a metric type. */
  scales: 7434,
  /** Closing of a day, one at a time. */
  closer: 7436,
  /** Writing of an archive. */
  archive: 7435,
  /** Matching of reports of LiteLLM calls. */
  litellmClaims: 7446,
} as const;

/** Waits for a lock; the transaction holds it exclusively until it ends. */
export async function holdLock(transaction: Executor, lock: number): Promise<void> {
  await transaction.query(sql('locks/hold'), [lock]);
}

/** Waits until nobody holds a lock exclusively, and shares it until the transaction ends. */
export async function shareLock(transaction: Executor, lock: number): Promise<void> {
  await transaction.query(sql('locks/share'), [lock]);
}

/** Waits until nobody has a lock, and does not keep it: the connection may be in a transaction that goes on. */
export async function passLock(connection: Executor, lock: number): Promise<void> {
  await connection.query(sql('locks/pass'), [lock]);
}

/** The same until the returned function is called, on a connection. */
export async function shareSession(connection: Executor, lock: number): Promise<() => Promise<void>> {
  await connection.query(sql('locks/share-session'), [lock]);
  return async () => void (await connection.query(sql('locks/release-shared'), [lock]));
}

/** Takes a lock for the transaction; returns false if another one holds it. */
export async function tryLock(transaction: Executor, lock: number): Promise<boolean> {
  const [row] = (await transaction.query(sql('locks/try'), [lock])) as { held: boolean }[];
  return row!.held;
}
