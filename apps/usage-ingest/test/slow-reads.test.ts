import { until } from '@tally/testkit';
import pg from 'pg';
import { expect, test } from 'vitest';
import { startIngest } from './ingest-fixture.ts';

test('one caller’s slow reads keep neither flushes nor another caller from Postgres', async () => {
  const ingest = await startIngest({ POSTGRES_POOL_SIZE: '6' });
  const { key } = await ingest.admin.keys.create.mutate({ name: 'reader', role: 'analyst' });
  const reader = ingest.clientWith(key);
  const record = (id: string) =>
    ingest.admin.usage.record.mutate({ entries: [{ id, merchantId: 'acme', metrics: { prompt_tokens: '1' } }] });
  const question = { merchantId: 'acme', date: '2026-11-22', metricType: 'prompt_tokens' };
  await record('first');
  await ingest.admin.flush.drain.mutate({});
  const client = new pg.Client({ connectionString: ingest.databaseUrl });
  await client.connect();
  await client.query('begin');
  // Explanations read it, and flushes do not.
  await client.query('lock table usage_adjustments');
  const explaining = Array.from({ length: 12 }, () => reader.usage.explain.query(question));
  const stuck = `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`;
  await until('one of them waits', async () => (await client.query(stuck)).rowCount! > 0);
  for (const id of ['second', 'third', 'fourth', 'fifth', 'sixth']) {
    await record(id);
    expect(await ingest.admin.flush.drain.mutate({})).toMatchObject({ complete: true, recordsAggregated: 1 });
    expect((await ingest.admin.deadLetters.list.query({})).rows).toEqual([]);
  }
  await client.query('commit');
  const values = (await Promise.all(explaining)).map(({ value }) => Number(value));
  expect(Math.min(...values)).toBeGreaterThanOrEqual(1);
  await client.end();
  await ingest.close();
});
