import { type FreshStore, freshDatabase, until } from '@tally/testkit';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { DISTRIBUTED, planDistribution, REFERENCE } from './distribution.ts';
import { openDb } from './open-db.ts';
import { sql } from './run-sql.ts';
import { migrate } from './schema.ts';

const hasCitus = process.env.CITUS_DATABASE_URL !== undefined;
let database: FreshStore;
let client: pg.Client;

beforeAll(async () => {
  database = await freshDatabase(migrate);
  client = new pg.Client({ connectionString: database.url });
  await client.connect();
});
afterAll(async () => {
  await client.end();
  await database.drop();
});

test('is refused while a service is connected, by its name', async () => {
  const db = await openDb(database.url, { applicationName: 'usage-ingest', poolSize: 1 });
  await expect(planDistribution(client, 4)).rejects.toThrow(
    /Others are connected: .*usage-ingest \(\d+\).*Stop all services/,
  );
  await db.close();
  // Postgres ends the session a moment after its connection is closed.
  await until('nobody else to be connected', async () => (await client.query(sql('schema/connected'))).rowCount === 0);
});

test.skipIf(hasCitus)('is refused on a server without Citus, which is told how to get it', async () => {
  await expect(planDistribution(client, 4)).rejects.toThrow(/no Citus.*shared_preload_libraries/);
});

test.runIf(hasCitus)('has nothing left to do on a database that is distributed', async () => {
  expect(await planDistribution(client, 4)).toEqual([]);
  const { rows } = await client.query('select logicalrelid::text as name from pg_dist_partition order by 1');
  expect(rows.map(({ name }) => name)).toEqual(expect.arrayContaining([...DISTRIBUTED, ...REFERENCE]));
});
