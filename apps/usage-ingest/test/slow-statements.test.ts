import { until } from '@tally/testkit';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Fixture, startIngest } from './ingest-fixture.ts';

const TODAY = '2026-11-22';
/** Events of a day that Redis no longer keeps are written to Postgres at once. */
const PAST = '2026-11-10';

let ingest: Fixture;
let client: pg.Client;

beforeAll(async () => {
  ingest = await startIngest({ POSTGRES_POOL_SIZE: '6' });
  client = new pg.Client({ connectionString: ingest.databaseUrl });
  await client.connect();
});
afterAll(async () => {
  await client.end();
  await ingest.close();
});

const record = (id: string, merchantId = 'acme', date = TODAY) =>
  ingest.admin.usage.record.mutate({
    entries: [{ id, merchantId, time: `${date}T10:00:00Z`, metrics: { prompt_tokens: '1' } }],
  });

async function oneWaits(): Promise<void> {
  const waiting = `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`;
  await until('one of them waits', async () => (await client.query(waiting)).rowCount! > 0);
}

async function expectFlushes(name: string): Promise<void> {
  for (let round = 0; round < 5; round++) {
    await record(`${name}-${round}`);
    expect(await ingest.admin.flush.drain.mutate({})).toMatchObject({ complete: true, recordsAggregated: 1 });
    expect((await ingest.admin.deadLetters.list.query({})).rows).toEqual([]);
  }
}

test('one caller’s slow reads keep neither flushes nor another caller from Postgres', async () => {
  const { key } = await ingest.admin.keys.create.mutate({ name: 'reader', role: 'analyst' });
  const reader = ingest.clientWith(key);
  await record('first');
  await ingest.admin.flush.drain.mutate({});
  await client.query('begin');
  // Explanations read it, and flushes do not.
  await client.query('lock table usage_adjustments');
  const question = { merchantId: 'acme', date: TODAY, metricType: 'prompt_tokens' };
  const explaining = Array.from({ length: 12 }, () => reader.usage.explain.query(question));
  await oneWaits();
  await expectFlushes('beside-reads');
  await client.query('commit');
  const values = (await Promise.all(explaining)).map(({ value }) => Number(value));
  expect(Math.min(...values)).toBeGreaterThanOrEqual(1);
});

test('nor do events of past days, however many batches of them are under way', async () => {
  await record('first', 'late', PAST);
  await client.query('begin');
  await client.query(`select from usage_touched_days where merchant_id = 'late' for update`);
  const recording = Array.from({ length: 12 }, (_, index) => record(`${index}`, 'late', PAST));
  await oneWaits();
  await expectFlushes('beside-batches');
  await client.query('commit');
  expect((await Promise.all(recording)).map(({ accepted }) => accepted)).toEqual(Array(12).fill(1));
});
