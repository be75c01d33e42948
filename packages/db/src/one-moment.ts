import { setTimeout as wait } from 'node:timers/promises';
import type { DataSource, QueryRunner } from 'typeorm';
import { isDistributed } from './distribution.ts';
import { holdLock, LOCKS, passLock, shareLock, shareSession, tryLock } from './locks.ts';
import type { Executor } from './run-sql.ts';

/** How long a commit looks for a moment without readers, before it makes new ones wait for it. */
const PATIENCE_MS = 5_000;
const LOOK_EVERY_MS = 10;

// Nodes of Citus have no common snapshot, and commit one after another: the coordinator first. One Postgres needs nothing
// of this file.
// What is derived and what is not derived yet lie on different nodes: a read that met the commit of a derivation would add
// an event twice, or not at all. So derivations commit while nobody reads both (ADR 480).
// Versions, flushes and marks of changed days are on the coordinator: who found one there could miss its events on the
// other nodes, and would keep that for good. So whoever reads one waits for the commits under way (ADR 490).

const placements = new WeakMap<DataSource, Promise<boolean>>();

/**
 * Whether the database is on Citus. It becomes so only while no service runs. Asks on the caller's own connection: all
 * others may be taken by transactions that wait here, too.
 */
function isOnNodes(dataSource: DataSource, connection: Executor): Promise<boolean> {
  const known = placements.get(dataSource) ?? isDistributed(connection);
  placements.set(dataSource, known);
  known.catch(() => placements.delete(dataSource));
  return known;
}

/** Runs reads of derived rollups and of what they lack on one connection, while no derivation is committed. */
export async function atOneMoment<T>(dataSource: DataSource, read: (runner: QueryRunner) => Promise<T>): Promise<T> {
  const runner = dataSource.createQueryRunner();
  try {
    const end = await beginMoment(dataSource, runner);
    try {
      return await read(runner);
    } finally {
      await end();
    }
  } finally {
    await runner.release();
  }
}

/**
 * Begins a moment in which no derivation is committed; returns the function that ends it. Call it before the transaction
 * that reads, whose first statement has its snapshot before it waits for anything.
 */
export async function beginMoment(dataSource: DataSource, runner: QueryRunner): Promise<() => Promise<void>> {
  return (await isOnNodes(dataSource, runner as Executor))
    ? shareSession(runner as Executor, LOCKS.moment)
    : async () => {};
}

/** The same until a transaction ends whose statements each have a snapshot of their own. */
export async function shareMoment(dataSource: DataSource, transaction: Executor): Promise<void> {
  if (await isOnNodes(dataSource, transaction)) await shareLock(transaction, LOCKS.moment);
}

/**
 * Waits until nobody is at a moment; from then on others wait until the transaction is committed. Call it last in the
 * transaction, since readers wait for whatever comes after it.
 */
export async function betweenMoments(dataSource: DataSource, transaction: Executor): Promise<void> {
  if (!(await isOnNodes(dataSource, transaction))) return;
  // Whoever waits in line for a lock stops the readers behind it, too.
  for (const end = performance.now() + PATIENCE_MS; performance.now() < end; await wait(LOOK_EVERY_MS))
    if (await tryLock(transaction, LOCKS.moment)) return;
  await holdLock(transaction, LOCKS.moment);
}

/** Lets others wait for the commit of a transaction that counts. Call it last in the transaction. */
export async function beginCommit(dataSource: DataSource, transaction: Executor): Promise<void> {
  if (await isOnNodes(dataSource, transaction)) await shareLock(transaction, LOCKS.commit);
}

/**
 * Waits until whatever the coordinator shows as committed is committed on all nodes. Call it between reading versions,
 * flushes or marks, and reading the sums that belong to them.
 */
export async function afterCommits(dataSource: DataSource, connection: Executor): Promise<void> {
  if (await isOnNodes(dataSource, connection)) await passLock(connection, LOCKS.commit);
}

/**
 * Waits until nobody is at a moment or commits; from then on all wait until the transaction is committed. For sums from
 * which what is not derived yet is subtracted: an event committed meanwhile would be in the one and not in the other.
 */
export async function stopCommits(dataSource: DataSource, transaction: Executor): Promise<void> {
  if (!(await isOnNodes(dataSource, transaction))) return;
  await betweenMoments(dataSource, transaction);
  await holdLock(transaction, LOCKS.commit);
}
