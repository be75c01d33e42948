import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { migrate, undoMigrations } from '@tally/db';
import { assertBuilt, freshDatabase, until } from '@tally/testkit';
import pg from 'pg';
import { expect, test } from 'vitest';

const MIGRATE = fileURLToPath(new URL('../../packages/db/dist/migrate.js', import.meta.url));

test('migrating goes on where a migration was killed that still builds an index, and leaves no invalid one', async () => {
  assertBuilt('packages/db');
  const { url, drop } = await freshDatabase(migrate, { onOneNode: true });
  const [client, vacuum] = [new pg.Client({ connectionString: url }), new pg.Client({ connectionString: url })];
  await Promise.all([client.connect(), vacuum.connect()]);
  const isThere = async (index: string) =>
    (await client.query('select to_regclass($1) is not null as found', [index])).rows[0].found;
  await undoMigrations(url, () => isThere('usage_daily_date_merchant'));
  /** The connections that wait to build an index. */
  const waiting = async (): Promise<number[]> => {
    const { rows } = await client.query(
      `select pid from pg_stat_activity
       where datname = current_database() and query ~ '^create index concurrently' and wait_event_type = 'Lock'`,
    );
    return rows.map(({ pid }) => pid);
  };

  // The lock of a vacuum.
  await vacuum.query('begin');
  await vacuum.query('lock table usage_daily in share update exclusive mode');
  const killed = spawn(process.execPath, [MIGRATE], { env: { ...process.env, DATABASE_URL: url }, stdio: 'ignore' });
  const left = await until('the first migration waits', async () => (await waiting())[0]);
  const ended = once(killed, 'exit');
  killed.kill('SIGKILL');
  await ended;
  const again = migrate(url);
  await until('the second migration waits', async () => (await waiting()).some((pid) => pid !== left));
  await vacuum.query('commit');

  expect(await again).toContain('PeriodsOfMerchants1763856000571');
  const { rows } = await client.query(`select indexrelid::regclass::text as name from pg_index where not indisvalid`);
  expect(rows).toEqual([]);
  expect([await isThere('usage_daily_date_merchant'), await isThere('usage_daily_date')]).toEqual([true, false]);
  await Promise.all([client.end(), vacuum.end()]);
  await drop();
});
