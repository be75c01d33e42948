import type { UsageEntry } from '@tally/contracts';
import type { Redis } from 'ioredis';
import pg from 'pg';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { type Fixture, startIngest } from './ingest-fixture.ts';

const DAY = '2026-11-22';
const LARGEST = 9_223_372_036_854_775_800n;

let ingest: Fixture;
let sql: pg.Client;
let merchants = 0;
const newMerchant = () => `merchant-${merchants++}`;

beforeAll(async () => {
  ingest = await startIngest();
  sql = new pg.Client({ connectionString: ingest.databaseUrl });
  await sql.connect();
});
afterAll(async () => {
  await sql.end();
  await ingest.close();
});

const entry = (merchantId: string, id: string, more: Record<string, unknown> = {}): UsageEntry => ({
  id,
  merchantId,
  time: `${DAY}T10:00:00Z`,
  metrics: { prompt_tokens: '10' },
  ...more,
});
const record = (entries: UsageEntry[]) => ingest.admin.usage.record.mutate({ entries });
const flush = (merchantId: string) => ingest.admin.flush.merchant.mutate({ merchantId });
const check = (merchantId: string) =>
  ingest.admin.reconcile.check.query({ startDate: DAY, endDate: DAY, merchantIds: [merchantId] });

test.each(['-1000000000000000000', '-10', '-1'])('a total of %s takes more usage', async (amount) => {
  const merchantId = newMerchant();
  await ingest.admin.usage.adjust.mutate({
    id: 'credit',
    merchantId,
    date: DAY,
    metrics: { prompt_tokens: amount },
    reason: 'a credit',
  });
  const total = (BigInt(amount) + 10n).toString();
  expect(await record([entry(merchantId, 'a')])).toMatchObject({ accepted: 1, rejected: [] });
  await flush(merchantId);
  expect((await ingest.admin.usage.current.query({ merchantId })).metrics).toMatchObject({ prompt_tokens: total });
  expect(await check(merchantId)).toMatchObject({ balanced: true });
});

test('every retry of a dead letter counts as an attempt, and is kept', async () => {
  const merchantId = newMerchant();
  await sql.query(`insert into merchant_usage values ($1, $2, 'prompt_tokens', ${LARGEST})`, [merchantId, DAY]);
  await record([entry(merchantId, 'too much')]);
  await flush(merchantId);
  for (const attempts of [2, 3, 4]) {
    expect((await ingest.admin.deadLetters.retry.mutate({ merchantId })).stillRefused).toMatchObject([{ attempts }]);
    expect((await ingest.admin.deadLetters.list.query({ merchantId })).rows).toMatchObject([{ attempts }]);
  }
});

test('any number of dead letters is part of the comparison of all stored forms', async () => {
  const merchantId = newMerchant();
  await record([
    entry(merchantId, 'counted'),
    entry(merchantId, 'refused', { metrics: { prompt_tokens: '7', bytes: '10' } }),
  ]);
  await sql.query(`insert into merchant_usage values ($1, $2, 'bytes', ${LARGEST})`, [merchantId, DAY]);
  await flush(merchantId);
  const many = 10_500;
  await sql.query(
    `insert into usage_dead_letters (merchant_id, date, entry_id, line, code, message)
     select $1, $2::date, 'dead-' || n,
       jsonb_build_object('merchant_id', $1::text, 'date', $2::text, 'id', 'dead-' || n, 'time', ${Date.parse(DAY)}, 'requests', '1',
         'metrics', jsonb_build_object('seats', '2')),
       'REFUSED', 'by SQL'
     from generate_series(1, ${many}) as n`,
    [merchantId, DAY],
  );
  const redis = ingest.redis as Redis;
  await redis.incrby(`usage:${merchantId}:${DAY}:requests`, many);
  await redis.incrby(`usage:${merchantId}:${DAY}:seats`, 2 * many);
  await redis.sadd(ingest.keys.types(merchantId, DAY), 'seats');
  await sql.query(`delete from merchant_usage where merchant_id = $1 and metric_type = 'bytes'`, [merchantId]);
  expect(await check(merchantId)).toMatchObject({ balanced: true, drift: [] });

  const { counted, stillRefused, left } = await ingest.admin.deadLetters.retry.mutate({ merchantId, limit: 20 });
  expect([counted, stillRefused, left]).toEqual([20, [], many + 1 - 20]);
  expect(await check(merchantId)).toMatchObject({ balanced: true });
});

test('an explanation names its flushes and adjustments once, at most 100 of each, and counts all of them', async () => {
  const merchantId = newMerchant();
  for (let round = 0; round < 3; round++) {
    await record([entry(merchantId, `e${round}`)]);
    await flush(merchantId);
  }
  await sql.query(
    `with flush as (
       insert into usage_flushes (source, entries, inserted, merchants)
       select 'stream', 1, 1, 1 from generate_series(1, 150) returning id
     )
     insert into usage_events (date, merchant_id, id, time, user_id, api_key, model, provider, failed, calls,
       requests, failed_requests, prompt_tokens, completion_tokens, cost, flush_id)
     select $2::date, $1, 'f' || id, $2::date, '', '', '', '', false, 2, 2, 0, 1, 0, 0, id from flush`,
    [merchantId, DAY],
  );
  await sql.query(
    `insert into usage_adjustments (merchant_id, id, date, user_id, api_key, model, provider, prompt_tokens, reason, actor)
     select $1, 'a' || n, $2, '', '', '', '', 1, 'by SQL', 'test' from generate_series(1, 120) as n`,
    [merchantId, DAY],
  );
  const ask = (more = {}) =>
    ingest.admin.usage.explain.query({ merchantId, date: DAY, metricType: 'prompt_tokens', limit: 100, ...more });
  const first = await ask();
  expect(first).toMatchObject({ entryCount: '153', callCount: '303', flushCount: 153, adjustmentCount: 120 });
  expect([first.flushes.length, first.adjustments.length, first.entries.length]).toEqual([100, 100, 100]);
  const second = await ask({ cursor: first.nextCursor });
  expect(second).toMatchObject({ entryCount: '153', callCount: '303', flushCount: 153, adjustmentCount: 120 });
  expect([second.flushes, second.adjustments, second.entries.length]).toEqual([[], [], 53]);
  expect(second.nextCursor).toBeNull();
  expect(new Set([...first.entries, ...second.entries].map(({ id }) => id)).size).toBe(153);
});

test.each(['e1', '', 'a b', 'WyJhIl0'])('a cursor that is made up (%j) explains nothing', async (cursor) => {
  const question = { merchantId: newMerchant(), date: DAY, metricType: 'prompt_tokens', cursor };
  await expect(ingest.admin.usage.explain.query(question)).rejects.toMatchObject({ data: { code: 'INVALID_CURSOR' } });
});

test('reports values that Redis does not tell as unknown, not 0', async () => {
  const own = await startIngest({ ENABLE_FLUSH: 'true', FLUSH_INTERVAL_MS: '20' });
  const lag = async () =>
    /^tally_flush_lag_seconds (\S+)$/m.exec(await (await own.app.request('/metrics')).text())?.[1];
  try {
    await vi.waitFor(async () => expect(await lag()).toBe('0'), { timeout: 60_000 });
    own.redis.disconnect();
    await vi.waitFor(async () => expect(await lag()).toBe('Nan'), { timeout: 60_000 });
    expect(await own.admin.flush.status.query({})).toMatchObject({ lagMs: null, pendingKeys: null, aggregated: false });
  } finally {
    await (own.redis as Redis).connect();
    await own.close();
  }
});
