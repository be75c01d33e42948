import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Running, startAnalytics } from '../test/start.ts';

let running: Running;
let sql: pg.Client;
const DATE = '2026-02-03';

beforeAll(async () => {
  running = await startAnalytics();
  sql = new pg.Client({ connectionString: running.databaseUrl });
  await sql.connect();
  await record('1', 'm', 'one');
  await record('2', 'm', 'two');
  await record('3', 'single', 'one');
});
afterAll(async () => {
  await sql.end();
  await running.stop();
});

async function record(id: string, model: string, provider: string, merchantId = 'acme') {
  const metrics = { prompt_tokens: '900719925474099', completion_tokens: '1', cost: '0.000000001' };
  await expect(
    running.ingest.usage.record.mutate({
      entries: [{ id, merchantId, time: `${DATE}T10:00:00Z`, metrics, model, provider }],
      backfill: true,
    }),
  ).resolves.toMatchObject({ accepted: 1 });
}

test('a day is sealed with its sums by user, model and provider, a model of two providers once for each', async () => {
  const day = await running.client.days.get.query({ date: DATE });
  const one = {
    requests: '1',
    totalTokens: '900719925474100',
    promptTokens: '900719925474099',
    completionTokens: '1',
    cost: '0.000000001',
  };
  expect(day).toMatchObject({
    status: 'complete',
    current: true,
    byModel: { 'm|one': one, 'm|two': one, single: one },
  });
  expect(day.byUser).toEqual({
    unknown: {
      requests: '3',
      totalTokens: '2702159776422300',
      promptTokens: '2702159776422297',
      completionTokens: '3',
      cost: '0.000000003',
    },
  });
  expect(Object.keys(day.byProvider)).toEqual(['one', 'two']);
  const { rows } = await sql.query(`select jsonb_array_length(raw_data) as rows from daily_usage_cache`);
  expect(rows).toEqual([{ rows: 3 }]);
});

test('a late entry makes the document stale, and it is rebuilt before it is returned', async () => {
  await record('4', 'late', 'one', 'globex');
  await running.client.analytics.refresh.mutate({});
  const status = async () =>
    (await running.client.days.status.query({ startDate: DATE, endDate: DATE })).rows[0]!.current;
  expect(await status()).toBe(false);
  expect(Object.keys((await running.client.days.get.query({ date: DATE })).byModel)).toContain('late');
  expect(await status()).toBe(true);
});

test('a range is rebuilt in batches, the same each time, or only where it is stale', async () => {
  const range = { startDate: '2026-01-20', endDate: '2026-03-01' };
  const document = async () =>
    (await sql.query('select raw_data, aggregated_by_model from daily_usage_cache where date = $1', [DATE])).rows;
  const before = await document();
  expect(await running.client.days.rebuild.mutate(range)).toMatchObject({ rebuilt: 41, complete: true });
  expect(await document()).toEqual(before);
  expect(await running.client.days.rebuild.mutate({ ...range, onlyStale: true })).toMatchObject({ rebuilt: 0 });
  await record('5', 'm', 'one');
  expect(await running.client.days.rebuild.mutate({ ...range, onlyStale: true })).toMatchObject({ rebuilt: 1 });
});

test('stale days are made once, however many ask at once, and without a range all that are closed', async () => {
  const other = (await running.another()).client;
  const dates = Array.from({ length: 20 }, (_, n) => `2026-04-${String(n + 1).padStart(2, '0')}`);
  const entries = dates.map((date) => ({ id: date, merchantId: 'acme', time: `${date}T10:00:00Z`, metrics: {} }));
  await running.ingest.usage.record.mutate({ entries, backfill: true });
  const clients = [running.client, other, running.client, other];
  const made = await Promise.all(clients.map((client) => client.days.rebuild.mutate({ onlyStale: true })));
  expect(made.reduce((sum, { rebuilt }) => sum + rebuilt, 0)).toBe(20);
  const { rows } = await other.days.status.query({ startDate: dates[0]!, endDate: dates.at(-1)! });
  expect(rows.map(({ date }) => date)).toEqual(dates);
  expect(rows.every((row) => row.current && row.status === 'complete')).toBe(true);
  await expect(other.days.rebuild.mutate({ startDate: dates[0]! })).rejects.toMatchObject({
    data: { code: 'INVALID_INPUT' },
  });
});

test('documents of another system are read in their own shapes', async () => {
  await sql.query(
    `insert into daily_usage_cache (date, raw_data, aggregated_by_user, aggregated_by_model, cache_status)
     values ('2020-01-01', '[]', $1, $2, 'complete')`,
    [
      JSON.stringify({ ann: { totalRequests: 2, totalTokens: 30, cost: 0.25 } }),
      JSON.stringify({
        m: { totalRequests: 2, totalTokens: 30, promptTokens: 20, completionTokens: 10, totalCost: 0.25 },
      }),
    ],
  );
  const day = await running.client.days.get.query({ date: '2020-01-01' });
  expect(day.byUser).toEqual({
    ann: { requests: '2', totalTokens: '30', promptTokens: null, completionTokens: null, cost: '0.25' },
  });
  expect(day.byModel).toEqual({
    m: { requests: '2', totalTokens: '30', promptTokens: '20', completionTokens: '10', cost: '0.25' },
  });
});
