import { MeterDefinition, startOfDay } from '@tally/contracts';
import { type FreshStore, freshDatabase, until } from '@tally/testkit';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { LOCKS } from '../locks.ts';
import { type Db, openDb } from '../open-db.ts';
import { migrate } from '../schema.ts';

let store: FreshStore;
let db: Db;
let client: pg.Client;

beforeAll(async () => {
  store = await freshDatabase(migrate);
  db = await openDb(store.url, { poolSize: 4 });
  client = new pg.Client({ connectionString: store.url });
  await client.connect();
});
afterAll(async () => {
  await client.end();
  await db.close();
  await store.drop();
});

test('processes that compute the history of a meter at the same time count it once', async () => {
  const date = '2026-03-05';
  const line = { date, time: startOfDay(date), model: 'm', requests: '1' };
  const lines = ['ada', 'bob', 'eve'].map((merchant_id, at) => ({ ...line, merchant_id, id: 'e', origin: `0:${at}` }));
  await db.journal.append({ source: 'direct', lines });
  while ((await db.meters.derive(1_000)).flushes > 0);
  const meter = await db.meters.create(MeterDefinition.parse({ key: 'calls', aggregation: 'COUNT' }), 'test');

  // All have begun before one of them may count.
  await client.query('begin');
  await client.query('select pg_advisory_xact_lock($1)', [LOCKS.meters]);
  const computing = [1, 2, 3].map(() => db.meters.computeHistory(2));
  const waiting = `select from pg_locks where locktype = 'advisory' and not granted
    and database = (select oid from pg_database where datname = current_database())`;
  await until('three wait for the lock', async () => (await client.query(waiting)).rowCount === 3);
  await client.query('commit');
  await Promise.all(computing);
  while (await db.meters.computeHistory(2));

  const [start, end] = [startOfDay(date), startOfDay('2026-03-06')];
  const rows = await db.meters.read(meter, { starts: [start], end, groupBy: [], filters: {}, limit: 10 });
  expect(rows.map(({ value }) => value)).toEqual(['3']);
});
