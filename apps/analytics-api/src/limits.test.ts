import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Running, startAnalytics } from '../test/start.ts';

let running: Running;
let client: pg.Client;
const year = { startDate: '2025-01-01', endDate: '2025-12-31' };

/** Users and days of a year as the rollups have them: 9,000 users in each month. */
beforeAll(async () => {
  running = await startAnalytics({ ENABLE_ANALYTICS_CACHE: 'false' });
  client = new pg.Client({ connectionString: running.databaseUrl });
  await client.connect();
  await client.query(`
    insert into usage_monthly (merchant_id, month, user_id, api_key, model, provider, requests)
    select 'acme', month::date, 'user-' || n, '', '', '', 1
    from generate_series('2025-01-01'::date, '2025-12-01', '1 month') as month, generate_series(1, 9000) as n`);
  await client.query(`
    insert into usage_rollup_rows (merchant_id, rollup, period, rows)
    select merchant_id, 'usage_monthly', month::date, 9000
    from generate_series('2025-01-01'::date, '2025-12-01', '1 month') as month, unnest(array['', 'acme']) as merchant_id`);
  await client.query(`
    insert into merchant_usage (merchant_id, date, metric_type, metric_value)
    select 'acme', day::date, 'requests', 9000 from generate_series('2025-01-01'::date, '2025-12-31', '1 day') as day`);
  await meterByUser();
});
afterAll(async () => {
  await client.end();
  await running.stop();
});

/** Runs work while nobody can read the daily rows: a query that needs them would wait. */
async function withoutDays<T>(work: () => Promise<T>): Promise<T> {
  await client.query('begin');
  await client.query('lock table usage_daily in access exclusive mode');
  try {
    return await work();
  } finally {
    await client.query('rollback');
  }
}

test('a query that would read too many rows is refused before it reads any', async () => {
  const { client: strict } = await running.another({ ANALYTICS_MAX_ROWS: '100000', ENABLE_ANALYTICS_CACHE: 'false' });
  const acme = { ...year, merchantIds: ['acme'] };
  const refusal = { data: { code: 'TOO_MANY_ROWS', details: { maxRows: 100_000 } } };
  // A year of the coarsest rollup is small.
  await strict.analytics.breakdown.query({ ...acme, by: 'user' });
  await withoutDays(async () => {
    const most = { ...acme, startDate: '2025-01-02', by: 'user' as const };
    await expect(
      strict.analytics.breakdown.query({ ...most, models: ['m'], by: 'model', userIds: ['u'] }),
    ).rejects.toMatchObject(refusal);
    await expect(
      strict.analytics.timeseries.query({ ...acme, interval: 'day', userIds: ['user-1'] }),
    ).rejects.toMatchObject(refusal);
  });
});

/** A meter whose users have months, but no days: a query that reads days would answer that there are none. */
async function meterByUser(): Promise<void> {
  const meter = { key: 'pages', aggregation: 'SUM', metricType: 'pages', dimensions: ['user'] } as const;
  await running.ingest.meters.create.mutate({ ...meter, dimensions: [...meter.dimensions] });
  await client.query(`
    insert into meter_months (meter_id, merchant_id, month, d1, d2, d3, d4, element, value)
    select meters.id, usage.merchant_id, usage.month, usage.user_id, '', '', '', '', 1
    from meters, usage_monthly as usage
    where meters.key = 'pages'`);
}

test('a meter by more groups and days than an answer has rows is refused before its days are read', async () => {
  const ask = (meter: string, more: { startDate?: string; groupBy?: string[] } = {}) =>
    running.client.analytics.meter.query({
      ...{ ...year, meter, merchantIds: ['acme'], window: 'day' as const, groupBy: ['user'] },
      ...more,
    });
  const refusal = { data: { code: 'TOO_MANY_POINTS', details: { maxRows: 100_000 } } };
  await expect(ask('pages')).rejects.toMatchObject(refusal);
  await expect(ask('requests')).rejects.toMatchObject(refusal);
  expect((await ask('pages', { groupBy: [] })).rows).toEqual([]);
  expect((await ask('pages', { startDate: '2025-02-01' })).rows).toEqual([]);
});

test('a meter with too many rows is refused before it reads any, by the statistics of Postgres', async () => {
  const { client: strict } = await running.another({ ANALYTICS_MAX_ROWS: '10000', ENABLE_ANALYTICS_CACHE: 'false' });
  await client.query('analyze meter_months');
  const ask = (meter: string, range: typeof year, window: 'total' | 'day' = 'total') =>
    strict.analytics.meter.query({ ...range, meter, merchantIds: ['acme'], groupBy: ['user'], window });
  const refusal = { data: { code: 'TOO_MANY_ROWS', details: { maxRows: 10_000 } } };
  const january = { ...year, endDate: '2025-01-31' };
  await expect(ask('pages', { ...january, endDate: '2025-02-28' })).rejects.toMatchObject(refusal);
  expect((await ask('pages', january)).rows).toHaveLength(9_000);
  await expect(ask('requests', january, 'day')).rejects.toMatchObject(refusal);
});

test('a series with too many groups is refused before its days are read', async () => {
  await withoutDays(async () => {
    const asked = running.client.analytics.timeseries.query({ ...year, interval: 'day', groupBy: 'user' });
    await expect(asked).rejects.toMatchObject({ data: { code: 'TOO_MANY_POINTS', details: { maxRows: 100_000 } } });
  });
});

test('the days between the periods of a summary are counted as rows, so the month before its first day is read whole', async () => {
  const period = { startDate: '2025-10-24', endDate: '2025-11-22' };
  const { plan } = await running.client.analytics.summary.query({ ...period, merchantIds: ['acme'], explain: true });
  const users = plan!.filter(({ cube }) => cube === 'usage_daily' || cube === 'usage_monthly');
  const days = users.filter(({ cube }) => cube === 'usage_daily').map(({ startDate, endDate }) => [startDate, endDate]);
  expect(days.toSorted()).toEqual([
    ['2025-09-24', '2025-09-30'],
    ['2025-10-24', '2025-10-31'],
    ['2025-10-24', '2025-10-31'],
    ['2025-11-23', '2025-11-30'],
  ]);
});
