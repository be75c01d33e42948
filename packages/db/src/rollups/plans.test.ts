import type { PlanPart } from '@tally/contracts';
import { type FreshStore, freshDatabase } from '@tally/testkit';
import pg from 'pg';
import type { DataSource } from 'typeorm';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { sql } from '../run-sql.ts';
import { migrate } from '../schema.ts';
import type { UsageReader } from './usage-reader.ts';
import { createUsageStore } from './usage-store.ts';

/** A year of 2,000 users in two merchants: large enough for the planner to have a choice. */
let database: FreshStore;
let client: pg.Client;
let planned: Plan[];
let reader: UsageReader;
let planner: { query(text: string, values: unknown[]): Promise<unknown> };

type Plan = { 'Node Type': string; 'Relation Name'?: string; Plans?: Plan[] };

beforeAll(async () => {
  // Plans of one node: Citus prints its own.
  database = await freshDatabase(migrate, { onOneNode: true });
  client = new pg.Client({ connectionString: database.url });
  await client.connect();
  await client.query(`
    insert into usage_daily (merchant_id, date, user_id, api_key, model, provider, requests, cost)
    select 'm' || n % 2, day::date, 'user-' || n, 'key-' || n % 50, 'model-' || n % 5, 'p', 1, n
    from generate_series('2025-01-01'::date, '2025-12-31', '3 days') as day, generate_series(1, 2000) as n
    order by 1, 2, 3`);
  await client.query(`
    insert into usage_monthly (merchant_id, month, user_id, api_key, model, provider, requests, cost)
    select merchant_id, date_trunc('month', date)::date, user_id, api_key, model, provider, sum(requests), sum(cost)
    from usage_daily group by 1, 2, 3, 4, 5, 6 order by 1, 2, 3`);
  await client.query(`
    insert into usage_quarter_months (merchant_id, quarter_month, user_id, api_key, model, provider, requests, cost)
    select merchant_id, usage_quarter_month(date), user_id, api_key, model, provider, sum(requests), sum(cost)
    from usage_daily group by 1, 2, 3, 4, 5, 6 order by 1, 2, 3`);
  await client.query(`
    insert into usage_yearly (merchant_id, year, user_id, api_key, model, provider, requests, cost)
    select merchant_id, month - make_interval(years => ago), user_id, api_key, model, provider, 12, 12 * cost
    from usage_monthly, generate_series(0, 9) as ago where month = '2025-01-01' order by 1, 2, 3`);
  await client.query(`
    insert into usage_daily_models (merchant_id, date, model, provider, requests, cost)
    select 'm' || n, day::date, 'model-' || model, 'p', 1, 1
    from generate_series('2025-01-01'::date, '2025-12-31', '1 day') as day, generate_series(0, 20) as n, generate_series(1, 5) as model
    order by 1, 2`);
  await client.query(`
    insert into usage_monthly_models (merchant_id, month, model, provider, requests, cost)
    select 'm' || n, month::date, 'model-' || model, 'p', 1, 1
    from generate_series('2020-01-01'::date, '2025-12-01', '1 month') as month, generate_series(0, 200) as n, generate_series(1, 5) as model
    order by 1, 2`);
  await client.query(`
    insert into usage_platform_daily (date, model, provider, requests, cost)
    select day::date, 'model-' || model, 'p', 1, 1
    from generate_series('2020-01-01'::date, '2025-12-31', '1 day') as day, generate_series(1, 20) as model
    order by 1`);
  await client.query(`
    insert into usage_platform_monthly (month, model, provider, requests, cost)
    select month::date, 'model-' || model, 'p', 1, 1
    from generate_series('2010-01-01'::date, '2025-12-01', '1 month') as month, generate_series(1, 100) as model
    order by 1`);
  await client.query(`
    insert into usage_platform_users (month, user_id, requests, cost)
    select month::date, 'user-' || n, 1, 1
    from generate_series('2020-01-01'::date, '2025-12-01', '1 month') as month, generate_series(1, 2000) as n
    order by 1`);
  await client.query(`
    insert into usage_rollup_rows (merchant_id, rollup, period, rows)
    select 'm' || n, rollup, month::date, 1
    from generate_series('2024-01-01'::date, '2025-12-01', '1 month') as month, generate_series(0, 500) as n,
      unnest(array['usage_monthly', 'usage_quarter_months']) as rollup
    order by 1, 3`);
  await client.query(`
    insert into usage_quarter_hours (merchant_id, bucket, model, provider, requests, cost)
    select 'm' || n, bucket, 'model-1', 'p', 1, 1
    from generate_series('2025-01-01T00:00:00Z'::timestamptz, '2025-12-31T23:45:00Z', '15 minutes') as bucket, generate_series(0, 1) as n
    order by 1, 2`);
  await client.query(`
    insert into merchant_usage (merchant_id, date, metric_type, metric_value)
    select 'm' || n, day::date, 'metric_' || metric, 1
    from generate_series('2025-01-01'::date, '2025-12-31', '1 day') as day, generate_series(0, 20) as n, generate_series(1, 5) as metric`);
  await client.query(`
    insert into daily_usage_cache (date, raw_data, aggregated_by_user, cache_status)
    select day::date, '[]', (select jsonb_object_agg('user-' || n * extract(day from day), n) from generate_series(1, 300) as n), 'complete'
    from generate_series('2025-01-01'::date, '2025-12-31', '1 day') as day`);
  for (const day of ['2025-06-01', '2025-06-02', '2025-06-03']) {
    const name = `usage_events_${day.replaceAll('-', '')}`;
    await client.query(
      `create table ${name} partition of usage_events for values from ('${day}') to ('${day}'::date + 1)`,
    );
    await client.query(`
      insert into usage_events (date, merchant_id, id, time, user_id, api_key, model, provider, failed, calls, flush_id)
      select '${day}', 'm' || n % 2, n::text, '${day}', 'user-' || n % 2000, '', '', '', false, 1, n % 1000
      from generate_series(1, 5000) as n`);
  }
  // Thousands of flushes were derived; the newest three were not, and have their sums.
  await client.query(`
    insert into usage_flushes (source, entries, inserted, merchants, first_date, last_date, summed, derived_at)
    select 'stream', 5, 5, 2, day::date, day::date, true, case when n <= 2000 or day < '2025-06-03' then now() end
    from generate_series('2025-06-01'::date, '2025-06-03', '1 day') as day, generate_series(1, 2003) as n
    order by day, n`);
  await client.query(`
    insert into usage_flush_sums (flush_id, date, model, provider, requests, cost)
    select id, last_date, 'model-' || n, 'p', 1, 1 from usage_flushes, generate_series(1, 5) as n where derived_at is null`);
  await client.query('vacuum (analyze)');
  // Plans every statement without running it; reads only what is not derived yet, and where the rows are.
  const read = [sql('pending-flushes'), sql('schema/is-distributed')];
  const explaining = {
    async query(text: string, values: unknown[]) {
      if (read.includes(text)) return (await client.query(text, values)).rows;
      const { rows } = await client.query(`explain (format json) ${text}`, values);
      planned.push((rows[0]['QUERY PLAN'] as { Plan: Plan }[])[0]!.Plan);
      throw new Planned();
    },
    createQueryRunner: () => ({
      query: explaining.query,
      manager: { transaction: (_: string, work: () => Promise<unknown>) => work() },
      release: async () => {},
    }),
  };
  planner = explaining;
  reader = createUsageStore(explaining as unknown as DataSource);
});
afterAll(async () => {
  await client.end();
  await database.drop();
});

class Planned extends Error {}

/** The tables that a query reads, and how: `seq` for a full scan, `index` for a lookup. */
async function scans(ask: (reader: UsageReader) => Promise<unknown>): Promise<string[]> {
  return [...new Set(await everyScan(ask))].sort();
}

async function everyScan(ask: (reader: UsageReader) => Promise<unknown>): Promise<string[]> {
  planned = [];
  await expect(ask(reader)).rejects.toThrow(Planned);
  const walk = (plan: Plan): string[] => [
    ...(plan['Relation Name']
      ? [`${plan['Node Type'] === 'Seq Scan' ? 'seq' : 'index'} ${plan['Relation Name']}`]
      : []),
    ...(plan.Plans ?? []).flatMap(walk),
  ];
  return planned.flatMap(walk);
}

const page = { sortBy: 'cost', order: 'desc', limit: 50 } as const;
const part = (cube: PlanPart['cube'], startDate: string, endDate = startDate) => ({ cube, startDate, endDate });

test.each([
  ['of all merchants', {}],
  ['of one merchant', { merchantIds: ['m1'] }],
  ['of one model', { models: ['model-1'] }],
  ['of some users', { merchantIds: ['m0'], userIds: ['user-2', 'user-4'] }],
])('a year, a month, a quarter of a month and a day by user, %s, are read by an index', async (_, filters) => {
  const parts = [
    part('usage_yearly', '2024-01-01', '2024-12-31'),
    part('usage_monthly', '2025-05-01', '2025-05-31'),
    part('usage_quarter_months', '2025-06-16', '2025-06-22'),
    part('usage_daily', '2025-06-03'),
  ];
  const read = await scans((reader) => reader.breakdown({ ...page, ...filters, by: 'user', parts }));
  const tables = ['usage_daily', 'usage_monthly', 'usage_quarter_months', 'usage_yearly'];
  expect(read).toEqual(tables.map((table) => `index ${table}`));
  expect(await scans((reader) => reader.activeUsers({ ...filters, parts }))).toEqual(read);
});

test('a week by model or by day reads that week of the small rollup, and by an index what is still to be added', async () => {
  const parts = [part('usage_daily_models', '2025-06-02', '2025-06-08')];
  // The only day with pending events.
  const wanted = ['index usage_daily_models', 'index usage_events_20250603'];
  expect(await scans((reader) => reader.breakdown({ ...page, by: 'model', parts }))).toEqual(wanted);
  expect(await scans((reader) => reader.byDay({ parts }))).toEqual(wanted);
  expect(await scans((reader) => reader.totals({ parts, models: ['model-2'] }))).toEqual(wanted);
  expect(await scans((reader) => reader.values({ parts, by: 'model', limit: 10 }))).toEqual(wanted);
});

test('rollups of all merchants are read by an index: months and days by model, months by user', async () => {
  const models = [
    part('usage_platform_daily', '2025-04-29', '2025-04-30'),
    part('usage_platform_monthly', '2025-05-01', '2025-05-31'),
  ];
  const wanted = ['index usage_platform_daily', 'index usage_platform_monthly'];
  for (const by of ['model', 'provider'] as const)
    expect(await scans((reader) => reader.breakdown({ ...page, by, parts: models }))).toEqual(wanted);
  expect(await scans((reader) => reader.totals({ parts: models }))).toEqual(wanted);
  const users = [part('usage_platform_users', '2025-05-01', '2025-05-31')];
  expect(await scans((reader) => reader.breakdown({ ...page, by: 'user', parts: users }))).toEqual([
    'index usage_platform_users',
  ]);
});

test('of flushes not yet derived, queries of all merchants by model read the sums and no events', async () => {
  const parts = [part('usage_platform_monthly', '2025-06-01', '2025-06-30')];
  const read = await scans((reader) => reader.breakdown({ ...page, by: 'model', parts }));
  expect(read.map((scan) => scan.split(' ')[1]).sort()).toEqual(['usage_flush_sums', 'usage_platform_monthly']);
});

test('an overview reads each rollup once, with pending events or their sums, and those of users again for the first ones', async () => {
  const models = [part('usage_platform_monthly', '2025-06-01', '2025-06-30')];
  const parts = {
    users: [part('usage_monthly', '2025-06-01', '2025-06-30')],
    models,
    days: [part('usage_platform_daily', '2025-06-01', '2025-06-30')],
  };
  const read = await everyScan((reader) => reader.overview({ parts, limits: { users: 5, models: 10 } }));
  expect(read.sort()).toEqual([
    'index usage_events_20250603',
    'index usage_monthly',
    'index usage_monthly',
    'index usage_platform_daily',
    'index usage_platform_monthly',
    // Of few rows.
    'seq usage_flush_sums',
    'seq usage_flush_sums',
  ]);
});

test('the first users of a merchant are read again by their ids only', async () => {
  const parts = [part('usage_yearly', '2025-01-01', '2025-12-31'), part('usage_monthly', '2024-12-01', '2024-12-31')];
  const totals = [part('usage_monthly_models', '2024-12-01', '2025-12-31')];
  const question = { ...page, merchantIds: ['m1'], by: 'user' as const, parts, totals };
  const read = await everyScan((reader) => reader.breakdown(question));
  const twice = ['usage_monthly', 'usage_yearly'].flatMap((table) => [`index ${table}`, `index ${table}`]);
  expect(read.sort()).toEqual(['index usage_events_20250603', ...twice, 'index usage_monthly_models'].sort());
  expect(JSON.stringify(planned)).toContain('user_id = ANY ((InitPlan');
});

test.each([
  ['of all merchants', {}],
  ['of one merchant', { merchantIds: ['m1'] }],
])('months by model, %s, are read by an index', async (_, filters) => {
  const parts = [part('usage_monthly_models', '2025-05-01', '2025-05-31')];
  expect(await scans((reader) => reader.breakdown({ ...page, ...filters, by: 'model', parts }))).toEqual([
    'index usage_monthly_models',
  ]);
});

test.each([
  ['of all merchants', null],
  ['of one merchant', ['m1']],
])('estimates of rows %s are read by an index', async (_, merchants) => {
  const question = [merchants, '2025-01-01', '2025-12-31', ['2025-01-01', '2025-06-01']];
  const read = await scans(async () => planner.query(sql('rollup-rows'), question));
  expect(read.filter((scan) => scan.startsWith('seq') && scan !== 'seq usage_rolled_up')).toEqual([]);
});

test('hours of a day are read from its quarters, and for users from its partition of the journal', async () => {
  const day = { starts: [Date.parse('2025-06-02T00:00:00Z')], end: Date.parse('2025-06-03T00:00:00Z'), limit: 10 };
  const quarters = { cube: 'usage_quarter_hours' as const, startDate: '2025-06-02', endDate: '2025-06-02' };
  expect(await scans((reader) => reader.series({ ...day, parts: [quarters] }))).toEqual(['index usage_quarter_hours']);
  const parts = [part('usage_events', '2025-06-02')];
  const read = await scans((reader) => reader.series({ ...day, parts, merchantIds: ['m1'], by: 'user' }));
  expect(read.filter((name) => name.includes('usage_events'))).toHaveLength(1);
  expect(read[0]).toContain('usage_events_20250602');
});

test('a merchant’s metrics of a day are read by an index', async () => {
  const question = { merchantIds: ['m3'], startDate: '2025-06-02', endDate: '2025-06-02' };
  expect(await scans((reader) => reader.merchantUsage(question))).toEqual(['index merchant_usage']);
});

test('imported days are looked for by date, and none of the cubes is read for them', async () => {
  const parts = [{ cube: 'daily_usage_cache' as const, startDate: '2025-06-01', endDate: '2025-06-30' }];
  const read = await scans((reader) => reader.breakdown({ ...page, by: 'user', parts }));
  expect(read).not.toContain('seq usage_daily_models');
});

test('the days of a user are found by the index of the documents’ keys', async () => {
  const question = `select date from daily_usage_cache where document_keys(aggregated_by_user) @> array['user-7471']`;
  expect((await client.query(question)).rows).toHaveLength(7);
  const { rows } = await client.query(`explain ${question}`);
  expect(JSON.stringify(rows)).toContain('idx_daily_usage_cache_user_jsonb');
});

test('lists the days of a long journal, also where the planner reads all names of tables', async () => {
  const first = Date.UTC(2026, 0, 1);
  const days = Array.from({ length: 60 }, (_, index) =>
    new Date(first + index * 86_400_000).toISOString().slice(0, 10),
  );
  await client.query('begin');
  for (const day of days)
    await client.query(
      `create table usage_events_${day.replaceAll('-', '')} partition of usage_events
       for values from ('${day}') to ('${day}'::date + 1)`,
    );
  await client.query('analyze pg_class; analyze pg_inherits');
  const { rows } = await client.query(`select date::text from (${sql('erase/journal-days')}) as day`, [days[1]]);
  await client.query('rollback');
  expect(rows.map(({ date }) => date)).toEqual(days.slice(1));
});
