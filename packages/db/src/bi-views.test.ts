import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { freshDatabase } from '@tally/testkit';
import { tableFromIPC } from 'apache-arrow';
import { readParquet } from 'parquet-wasm';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { EXPORTED_VIEWS, exportViews } from './export-views.ts';
import { migrate } from './schema.ts';

let database: Awaited<ReturnType<typeof freshDatabase>>;
let sql: pg.Client;
beforeAll(async () => {
  database = await freshDatabase(migrate);
  sql = new pg.Client({ connectionString: database.url });
  await sql.connect();
  await sql.query(`
    insert into usage_daily (merchant_id, date, user_id, api_key, model, provider, requests, failed_requests,
      prompt_tokens, completion_tokens, cost)
    values ('acme', '2026-11-01', 'u1', 'k1', 'gpt-4o', 'openai', 3, 1, 100, 50, 1234567890),
           ('acme', '2026-11-02', 'u1', 'k1', 'gpt-4o', 'openai', 1, 0, 10, 5, 1),
           ('globex', '2026-11-02', '', '', '', '', 2, 0, 0, 0, 0)`);
  await sql.query(`
    insert into merchant_usage values ('acme', '2026-11-01', 'cost', 1234567890), ('acme', '2026-11-01', 'gpu_hours', 2500),
      ('acme', '2026-11-01', 'queries', 7)`);
  await sql.query(`insert into metric_types (metric_type, scale) values ('gpu_hours', 3)`);
  await sql.query(`
    insert into meters (key, name, unit, scale, aggregation, metric_type, filters, dimensions, created_by, created_run)
    values ('gpu', 'GPU hours', 'hours', 3, 'SUM', 'gpu_hours', '{}', '{}', 'test', 1)`);
  await sql.query(`
    insert into directory_entries (kind, id, merchant_id, name, email, team)
    values ('user', 'u1', '', 'Everyone''s Ada', 'ada@example.com', 'red'), ('user', 'u1', 'acme', 'Ada', null, null),
           ('merchant', 'acme', '', 'Acme Ltd', null, null)`);
});
afterAll(async () => {
  await sql.end();
  await database.drop();
});

const rowsOf = async (text: string) => (await sql.query(text)).rows;

test('usage has USD, names of the merchant first, and no value where there is none', async () => {
  const [ada, , nobody] = await rowsOf(
    `select *, date::text as date from tally_bi.usage_daily as usage order by usage.merchant_id, usage.date`,
  );
  expect(ada).toMatchObject({
    ...{ date: '2026-11-01', merchant_name: 'Acme Ltd', user_name: 'Ada', user_email: 'ada@example.com', team: 'red' },
    ...{ api_key_name: 'k1', requests: '3', failed_requests: '1', total_tokens: '150', cost_usd: '1.234567890' },
  });
  const absent = { user_id: null, user_name: null, api_key: null, model: null, provider: null };
  expect(nobody).toMatchObject({ merchant_name: 'globex', ...absent, requests: '2' });
});

test('months add up days exactly', async () => {
  const rows = await rowsOf(
    `select month::text, cost_usd, requests from tally_bi.usage_monthly where merchant_id = 'acme'`,
  );
  expect(rows).toEqual([{ month: '2026-11-01', cost_usd: '1.234567891', requests: '4' }]);
});

test('metrics have the scale of their type, and the unit of a meter', async () => {
  const metrics = `select metric_type, trim_scale(value) as value, unit from tally_bi.metrics_daily order by 1`;
  const rows = await rowsOf(metrics);
  expect(rows).toEqual([
    { metric_type: 'cost', value: '1.23456789', unit: 'USD' },
    { metric_type: 'gpu_hours', value: '2.5', unit: 'hours' },
    { metric_type: 'queries', value: '7', unit: null },
  ]);
  await sql.query('begin');
  await sql.query('delete from meters');
  expect((await rowsOf(metrics))[1]).toEqual({ metric_type: 'gpu_hours', value: '2.5', unit: null });
  await sql.query('rollback');
});

test('FOCUS rows have the columns that version 1.2 makes mandatory, and costs that add up', async () => {
  const rows = await rowsOf(`select * from tally_bi.focus_1_2 order by "ChargePeriodStart"`);
  const mandatory =
    'BilledCost BillingAccountId BillingAccountName BillingCurrency BillingPeriodEnd BillingPeriodStart ChargeCategory ChargeClass ' +
    'ChargeDescription ChargePeriodEnd ChargePeriodStart ContractedCost EffectiveCost InvoiceIssuerName ListCost ' +
    'PricingQuantity PricingUnit ProviderName PublisherName ServiceCategory ServiceName ServiceSubcategory';
  expect(Object.keys(rows[0])).toEqual(expect.arrayContaining(mandatory.split(' ')));
  expect(rows.map((row) => row.BilledCost)).toEqual(['1.234567890', '0.000000001']);
  expect(rows[0]).toMatchObject({
    BillingPeriodStart: new Date('2026-11-01T00:00:00Z'),
    BillingPeriodEnd: new Date('2026-12-01T00:00:00Z'),
    ChargePeriodEnd: new Date('2026-11-02T00:00:00Z'),
    Tags: { user: 'u1', team: 'red' },
  });
});

test('every view and column for BI tools, and every column of every table, has a comment', async () => {
  const missing = await rowsOf(`
    select c.oid::regclass::text || '.' || attname as name
    from pg_class c join pg_attribute on attrelid = c.oid
    where c.relnamespace in ('public'::regnamespace, 'tally_bi'::regnamespace) and c.relkind in ('r', 'p', 'v')
      and not c.relispartition and attnum > 0 and not attisdropped
      and (c.relkind <> 'v' or c.relnamespace = 'tally_bi'::regnamespace)
      and col_description(c.oid, attnum) is null
    order by 1`);
  expect(
    missing.map(({ name }) => name),
    'say what they mean in comments.ts',
  ).toEqual([]);
});

test('a reader of BI views needs one grant, and reads nothing else', async () => {
  const [rights] = await rowsOf(`
    select has_table_privilege('tally_bi_reader', 'tally_bi.usage_daily', 'select') as views,
      has_table_privilege('tally_bi_reader', 'usage_daily', 'select') as tables,
      has_table_privilege('tally_bi_reader', 'tally_bi.usage_daily', 'insert') as writes`);
  expect(rights).toEqual({ views: true, tables: false, writes: false });
});

test('exports have a file for each view and day, complete, and the same when written again', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'tally-export-'));
  await sql.query(`insert into usage_daily (merchant_id, date, user_id, api_key, model, provider, requests)
    values ('says "hi", twice', '2026-11-03', '', '', 'm', '', 1)`);
  const options = {
    target: folder,
    startDate: '2026-11-01',
    endDate: '2026-11-03',
    views: ['usage_daily', 'focus_1_2'],
    format: 'csv',
  } as const;
  const first = await exportViews(database.url, options);
  expect(first).toEqual({ usage_daily: 4, focus_1_2: 2 });
  const read = async (name: string) => gunzipSync(await readFile(join(folder, name))).toString();
  const day = await read('usage_daily/2026-11-01.csv.gz');
  expect(day.split('\n')).toEqual([
    'date,merchant_id,merchant_name,user_id,user_name,user_email,team,api_key,api_key_name,model,provider,requests,' +
      'failed_requests,prompt_tokens,completion_tokens,total_tokens,cost_usd',
    '2026-11-01,acme,Acme Ltd,u1,Ada,ada@example.com,red,k1,k1,gpt-4o,openai,3,1,100,50,150,1.234567890',
    '',
  ]);
  expect(await read('usage_daily/2026-11-03.csv.gz')).toContain('\n2026-11-03,"says ""hi"", twice"');
  const second = await readFile(join(folder, 'usage_daily/2026-11-02.csv.gz'));
  // Written again, a row is stored behind the others.
  await sql.query(`update usage_daily set requests = requests where merchant_id = 'acme' and date = '2026-11-02'`);
  expect(await exportViews(database.url, options)).toEqual(first);
  expect(await readFile(join(folder, 'usage_daily/2026-11-02.csv.gz'))).toEqual(second);
  expect((await readdir(join(folder, 'focus_1_2'))).sort()).toEqual(
    ['2026-11-01', '2026-11-02', '2026-11-03'].map((date) => `${date}.csv.gz`),
  );
  await expect(exportViews(database.url, { ...options, views: ['api_keys'] })).rejects.toThrow(
    /Cannot export api_keys/,
  );
  await rm(folder, { recursive: true });
});

test('a Parquet export has the types of the views, and every digit of the CSV', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'tally-export-'));
  await sql.query(`insert into usage_adjustments (merchant_id, id, date, user_id, api_key, model, provider, cost, reason,
      actor, created_at, metrics)
    values ('acme', 'a1', '2026-11-01', '', '', 'm', '', -9007199254740993, 'wrong', 'ops', '2026-11-02T10:11:12.123456Z',
      '{}')`);
  const days = { target: folder, startDate: '2026-11-01', endDate: '2026-11-02', views: EXPORTED_VIEWS };
  const written = await exportViews(database.url, { ...days, format: 'parquet' });
  expect(written).toEqual(await exportViews(database.url, { ...days, format: 'csv' }));
  const file = (name: string) => join(folder, name);
  const table = async (name: string) => tableFromIPC(readParquet(await readFile(file(name))).intoIPCStream());

  const usage = await table('usage_daily/2026-11-01.parquet');
  const types = Object.fromEntries(usage.schema.fields.map(({ name, type }) => [name, String(type)]));
  expect(types).toMatchObject({
    ...{ date: 'Date32<DAY>', merchant_id: 'Utf8', model: 'Utf8', requests: 'Int64', total_tokens: 'Int64' },
    cost_usd: 'Decimal[38e+9]',
  });
  expect(usage.get(0)!.toJSON()).toMatchObject({ merchant_name: 'Acme Ltd', user_name: 'Ada', requests: 3n });

  const units = (words: Uint32Array) =>
    BigInt.asIntN(
      128,
      [...words].reduceRight((value, word) => (value << 32n) | BigInt(word), 0n),
    );
  const metrics = (await table('metrics_daily/2026-11-01.parquet')).toArray();
  expect(metrics.map((row) => [row.metric_type, units(row.value), row.unit])).toEqual([
    ['cost', 1_234_567_890n, 'USD'],
    ['gpu_hours', 2_500_000_000n, 'hours'],
    ['queries', 7_000_000_000n, null],
  ]);
  const adjustments = await table('adjustments/2026-11-01.parquet');
  const [adjustment] = adjustments.toArray();
  expect(adjustment).toMatchObject({ user_id: null, reason: 'wrong' });
  expect(units(adjustment!.cost_usd)).toBe(-9_007_199_254_740_993n);
  const [created] = adjustments.getChild('created_at')!.data[0]!.values;
  expect(created).toBe(BigInt(Date.parse('2026-11-02T10:11:12.123Z')) * 1000n + 456n);
  expect((await table('events/2026-11-01.parquet')).numRows).toBe(0);
  const focus = await table('focus_1_2/2026-11-01.parquet');
  expect(JSON.parse(focus.get(0)!.Tags)).toEqual({ user: 'u1', team: 'red' });

  const first = await readFile(file('usage_daily/2026-11-02.parquet'));
  await sql.query(`update usage_daily set requests = requests where merchant_id = 'acme' and date = '2026-11-02'`);
  await exportViews(database.url, { ...days, format: 'parquet' });
  expect(await readFile(file('usage_daily/2026-11-02.parquet'))).toEqual(first);
  await rm(folder, { recursive: true });
});

test('a day of the FOCUS view is found by an index', async () => {
  await sql.query('begin; set local enable_seqscan = off');
  const plan = await rowsOf(`explain select from tally_bi.focus_1_2 where "x_Date" = '2026-11-01'`);
  await sql.query('rollback');
  expect(plan.map((row) => row['QUERY PLAN']).join('\n')).toContain('usage_daily_date');
});
