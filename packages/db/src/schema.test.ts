import { readFile, writeFile } from 'node:fs/promises';
import { freshDatabase } from '@tally/testkit';
import pg from 'pg';
import { expect, test } from 'vitest';
import { createDataSource } from './data-source.ts';
import { dumpSchema } from './dump-schema.ts';
import { openDb } from './open-db.ts';
import { migrate, undoMigrations } from './schema.ts';

const SNAPSHOT = new URL('../schema.sql', import.meta.url);

test('migrating installs the schema, and again does no harm', async () => {
  const { url, drop } = await freshDatabase();
  expect((await migrate(url)).length).toBeGreaterThan(0);
  const schema = await schemaOf(url);
  expect(await migrate(url)).toEqual([]);
  expect(await schemaOf(url)).toBe(schema);
  await drop();
});

test('comments that are missing after a kill are written by the next call, without a migration', async () => {
  const { url, drop } = await freshDatabase(migrate, { onOneNode: true });
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  const comment = async () =>
    (await client.query(`select col_description('usage_events'::regclass, 1) as comment`)).rows[0].comment;
  const first = await comment();
  expect(first).toBeTruthy();
  await client.query(
    `do $$ begin execute format('comment on column usage_events.%I is null',
       (select attname from pg_attribute where attrelid = 'usage_events'::regclass and attnum = 1)); end $$`,
  );
  expect(await comment()).toBeNull();
  expect(await migrate(url)).toEqual([]);
  expect(await comment()).toBe(first);
  await client.end();
  await drop();
});

test('twenty processes may migrate at once', async () => {
  const { url, drop } = await freshDatabase();
  const ran = await Promise.all(Array.from({ length: 20 }, () => migrate(url)));
  expect(ran.filter((names) => names.length > 0)).toHaveLength(1);
  await drop();
});

test('every migration can be undone and done again', async () => {
  const { url, drop } = await freshDatabase();
  await migrate(url);
  const schema = await schemaOf(url);
  await undoMigrations(url);
  expect(
    (await schemaOf(url))
      .trim()
      .split('\n\n')
      .map((part) => part.split(' ')[1]),
  ).toEqual(['tally_migrations']);
  await migrate(url);
  expect(await schemaOf(url)).toBe(schema);
  await drop();
});

test('the schema is the one in git; `pnpm schema` writes it', async () => {
  const { url, drop } = await freshDatabase(migrate, { onOneNode: true });
  const schema = await schemaOf(url);
  if (process.env.TALLY_WRITE_SCHEMA) await writeFile(SNAPSHOT, schema);
  expect(schema).toBe(await readFile(SNAPSHOT, 'utf8'));
  await drop();
});

test('the entities agree with the migrated tables', async () => {
  const { url, drop } = await freshDatabase(migrate, { onOneNode: true });
  const dataSource = await createDataSource(url).initialize();
  const { upQueries } = await dataSource.driver.createSchemaBuilder().log();
  // Names and comments belong to the migrations; types, nullability and columns must agree.
  const differing = upQueries
    .map(({ query }) => query)
    .filter((query) => !/CONSTRAINT|DEFAULT|INDEX|^COMMENT/.test(query));
  expect(differing).toEqual([]);
  await dataSource.destroy();
  await drop();
});

test('going back to the release before adds open days to months and years', async () => {
  const { url, drop } = await freshDatabase(migrate, { onOneNode: true });
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  await client.query(`update usage_rolled_up set date = '2026-01-30'`);
  const db = await openDb(url);
  const dates = ['2026-01-30', '2026-01-31', '2026-02-01'];
  const append = (batch: number) =>
    db.journal.append({
      source: 'direct',
      lines: dates.flatMap((date) =>
        ['ada', 'bob'].map((merchant_id, position) => ({
          ...{ merchant_id, date, id: `e${batch}`, time: Date.parse(date), user_id: 'u', model: 'm', requests: '1' },
          origin: `${batch}:${position}`,
        })),
      ),
    });
  await append(1);
  await db.derivations.derive(100);
  for (const slice of [1, 2, 3, 4]) expect(await db.derivations.rollUp('2026-02-02', 1), `${slice}`).toBe(true);
  await append(2);
  await db.close();
  const position = async () => (await client.query('select date::text, merchant_id from usage_rolled_up')).rows;
  expect(await position()).toEqual([{ date: '2026-01-31', merchant_id: 'ada' }]);
  const isThere = async () =>
    (await client.query(`select to_regclass('usage_rolled_up') as name`)).rows[0].name !== null;
  await undoMigrations(url, isThere);
  const sum = async (table: string) =>
    Number((await client.query(`select sum(requests) as sum from ${table}`)).rows[0].sum);
  const pending = await sum('usage_pending');
  expect(pending).toBe(6);
  for (const table of ['monthly', 'yearly', 'monthly_models', 'platform_monthly', 'platform_users'])
    expect((await sum(`usage_${table}`)) + pending, table).toBe(12);
  // Months and years are complete now; tomorrow belongs to a process of the previous release.
  await migrate(url);
  const tomorrow = (await client.query(`select ((now() at time zone 'UTC')::date + 2)::text as date`)).rows[0].date;
  expect(await position()).toEqual([{ date: tomorrow, merchant_id: '' }]);
  const quarters = await client.query('select quarter_month::text, quarters_after::text from usage_rolled_up');
  expect(quarters.rows).toEqual([{ quarter_month: '0001-01-01', quarters_after: tomorrow }]);
  await client.end();
  await drop();
});

test('days that are there get the index of Lago one by one, also after an interruption', async () => {
  const { url, drop } = await freshDatabase(migrate, { onOneNode: true });
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  const isThere = async () =>
    (await client.query(`select to_regclass('usage_events_lago') as name`)).rows[0].name !== null;
  await undoMigrations(url, isThere);
  const days = ['2026-01-30', '2026-01-31', '2026-02-01'].map((day) => `usage_events_${day.replaceAll('-', '')}`);
  const dayOf = (name: string) => `date '${name.slice(-8)}'`;
  const open = (name: string) =>
    client.query(
      `create table ${name} partition of usage_events for values from (${dayOf(name)}) to (${dayOf(name)} + 1)`,
    );
  for (const name of days.slice(0, 2)) await open(name);
  await client.query(`create index ${days[0]}_lago on ${days[0]} (time)`);
  await migrate(url);
  await open(days[2]!);
  const { rows } = await client.query(
    `select day.relname as day, index.indisvalid as valid, pg_get_indexdef(index.indexrelid) ~ 'lago:%' as good
     from pg_inherits as part
     join pg_index as index on index.indexrelid = part.inhrelid
     join pg_class as day on day.oid = index.indrelid
     where part.inhparent = 'usage_events_lago'::regclass order by 1`,
  );
  expect(rows).toEqual(days.map((day) => ({ day, valid: true, good: true })));
  const whole = `select indisvalid as valid from pg_index where indexrelid = 'usage_events_lago'::regclass`;
  expect((await client.query(whole)).rows).toEqual([{ valid: true }]);
  await client.end();
  await drop();
});

async function schemaOf(url: string): Promise<string> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return await dumpSchema(client);
  } finally {
    await client.end();
  }
}
