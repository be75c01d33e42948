import { setTimeout as wait } from 'node:timers/promises';
import pg from 'pg';
import type { DataSource } from 'typeorm';
import { commentColumns } from './comments.ts';
import { connect, createDataSource, SESSION, throwRefusal } from './data-source.ts';
import { LOCKS } from './locks.ts';
import { loadMigrations, MIGRATION_NAMES } from './migrations/index.ts';
import { sql } from './run-sql.ts';
import { sqlState } from './transactions.ts';

const LOCK_RETRY_MS = 50;
const LEFTOVER_END_MS = 60_000;
/** The name of connections that migrate, but for the one that has the lock. */
const MIGRATION = 'tally-migration';
const UNDEFINED_TABLE = '42P01';

/**
 * Migrates the schema to the newest version; repeated and concurrent calls do no harm. Returns the names of the
 * migrations that ran.
 */
export async function migrate(url: string): Promise<string[]> {
  return locked(url, async (client) => {
    const dataSource = await openForMigration(url);
    try {
      const ran = await dataSource.runMigrations({ transaction: 'each' });
      // Also if none ran: the process may have been killed after the last one.
      await commentColumns(client);
      return ran.map((migration) => migration.name);
    } finally {
      await dataSource.destroy();
    }
  });
}

/**
 * Reverts migrations, newest first, while there is one and `isWanted` allows another; default: all. Each is a
 * transaction of its own.
 */
export async function undoMigrations(
  url: string,
  isWanted: (undone: number) => Promise<boolean> | boolean = () => true,
): Promise<void> {
  await locked(url, async () => {
    const dataSource = await openForMigration(url);
    try {
      for (let undone = 0; (await applied(dataSource)) > 0 && (await isWanted(undone)); undone++)
        await dataSource.undoLastMigration({ transaction: 'each' });
    } finally {
      await dataSource.destroy();
    }
  });
}

/** Returns true if all migrations of this release ran; later ones of a newer release do not matter. */
export async function isMigrated(dataSource: DataSource): Promise<boolean> {
  const rows: { name: string }[] = await dataSource.query(sql('schema/applied')).catch((error: unknown) => {
    if (sqlState(error) === UNDEFINED_TABLE) return [];
    throw error;
  });
  const applied = new Set(rows.map(({ name }) => name));
  return MIGRATION_NAMES.every((name) => applied.has(name));
}

async function applied(dataSource: { query(text: string): Promise<{ count: string }[]> }): Promise<number> {
  const [row] = await dataSource.query(sql('schema/migrations'));
  return Number(row!.count);
}

async function openForMigration(url: string): Promise<DataSource> {
  const options = { poolSize: 2, statementTimeoutMs: 0, applicationName: MIGRATION };
  return connect(createDataSource(url, options, await loadMigrations()));
}

/** The lock has a connection of its own, so that it outlasts every transaction and dies with the process. */
async function locked<T>(url: string, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const options = `${SESSION} -c statement_timeout=0`;
  const client = new pg.Client({ connectionString: url, application_name: 'tally-migrate', options });
  await client.connect().catch(throwRefusal);
  try {
    // Polls: a statement that waits holds a snapshot, and building an index concurrently waits for snapshots.
    for (;;) {
      const { rows } = await client.query(sql('locks/try-session'), [LOCKS.migrations]);
      if (rows[0].held) break;
      await wait(LOCK_RETRY_MS);
    }
    // What a killed process was running goes on without it and its lock: two that build an index wait for each other.
    await client.query(sql('schema/end-leftovers'), [MIGRATION, LEFTOVER_END_MS]);
    return await work(client);
  } finally {
    await client.end();
  }
}
