import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { freshDatabase } from '@tally/testkit';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { exportViews } from './export-views.ts';
import { type Db, openDb } from './open-db.ts';
import { migrate } from './schema.ts';

/** What a database or a role may set for all of its connections. Each changes how something of ours is read or written. */
const FOREIGN = {
  search_path: 'application',
  DateStyle: "'SQL, DMY'",
  IntervalStyle: 'sql_standard',
  TimeZone: "'Asia/Kolkata'",
  bytea_output: 'escape',
  extra_float_digits: '-15',
  default_transaction_isolation: 'serializable',
  array_nulls: 'off',
  transform_null_equals: 'on',
  quote_all_identifiers: 'on',
  statement_timeout: "'20s'",
};

let database: Awaited<ReturnType<typeof freshDatabase>>;
let db: Db;

beforeAll(async () => {
  database = await freshDatabase();
  const owner = new pg.Client({ connectionString: database.url });
  await owner.connect();
  await owner.query('create schema application');
  for (const [name, value] of Object.entries(FOREIGN))
    await owner.query(`alter database ${owner.escapeIdentifier(owner.database!)} set ${name} = ${value}`);
  await owner.end();
  await migrate(database.url);
  db = await openDb(database.url, { formulaPoolSize: 1 });
});
afterAll(async () => {
  await db?.close();
  await database?.drop();
});

const line = { merchant_id: 'acme', date: '2026-11-05', time: Date.parse('2026-11-05T12:00:00.5Z'), id: 'a' } as const;

test('no setting of the database or the role changes what is counted and read', async () => {
  const lines = [
    { ...line, origin: 'a', user_id: 'ada', requests: '1', cost: '123456789012345' },
    { ...line, origin: 'b', id: 'b', requests: '1' },
  ];
  expect(await db.journal.append({ source: 'direct', lines })).toMatchObject({ inserted: 2 });
  expect(await db.journal.append({ source: 'direct', lines })).toMatchObject({ inserted: 0 });
  const events = await db.events.withId('acme', 'a', [line.date]);
  expect(events).toMatchObject([{ ...line, user_id: 'ada', cost: '123456789012345' }]);
  expect(await db.events.recent('acme', 10)).toMatchObject([{ id: 'b' }, { id: 'a' }]);
  expect((await db.events.withId('acme', 'b', [line.date]))[0]!.user_id).toBeUndefined();
  expect((await db.derivations.derive(10)).flushes).toBe(1);
});

test('sixteen writers of one merchant, whose role asks for serializable transactions, are all counted', async () => {
  const writers = Array.from({ length: 16 }, (_, writer) => ({ ...line, id: `w${writer}`, origin: `w${writer}` }));
  await Promise.all(
    writers.map((each) => db.journal.append({ source: 'direct', lines: [{ ...each, requests: '1' }] })),
  );
  expect(await db.events.recent('acme', 100)).toHaveLength(18);
});

test('an export has the dates of the views', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'tally-session-'));
  const day = { startDate: line.date, endDate: line.date };
  const rows = await exportViews(database.url, { target: folder, ...day, views: ['usage_daily'], format: 'csv' });
  expect(rows).toEqual({ usage_daily: 2 });
  const text = gunzipSync(await readFile(join(folder, 'usage_daily', `${line.date}.csv.gz`))).toString();
  expect(text).toMatch(/^2026-11-05,acme,.*,123456\.789012345$/m);
  await rm(folder, { recursive: true });
});
