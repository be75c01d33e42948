import type { UsageEntry } from '@tally/contracts';
import type { Redis } from 'ioredis';
import pg from 'pg';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type Fixture, startIngest } from './ingest-fixture.ts';

const DAY = '2026-11-22';

let ingest: Fixture;
let redis: Redis;
let sql: pg.Client;

beforeEach(async () => {
  ingest = await startIngest();
  redis = ingest.redis as Redis;
  sql = new pg.Client({ connectionString: ingest.databaseUrl });
  await sql.connect();
});
afterEach(async () => {
  await sql.end();
  await ingest.close();
});

const entry = (id: string): UsageEntry => ({
  id,
  merchantId: 'acme',
  time: `${DAY}T10:00:00Z`,
  metrics: { queries: '3' },
});
const current = async () =>
  (await ingest.admin.usage.current.query({ merchantId: 'acme', date: DAY, metricTypes: ['queries'] })).metrics.queries;
const check = () => ingest.admin.reconcile.check.query({ startDate: DAY, endDate: DAY, merchantIds: ['acme'] });

/** Accepts events as the previous release did: ids, stream, totals, and the set of pending merchants. */
async function recordBefore(batch: string, ids: readonly string[]): Promise<void> {
  const lines = ids.map((id) => ({
    merchant_id: 'acme',
    date: DAY,
    id,
    time: Date.parse(`${DAY}T10:00:00Z`),
    requests: '1',
    metrics: { queries: '3' },
  }));
  await redis.sadd(`usage:{acme}:seen:${DAY}`, ...ids.map((id) => `${DAY} ${id}`));
  const fields = ['batch', batch, 'count', String(ids.length), 'days', DAY, 'lines', JSON.stringify(lines)];
  await redis.xadd('usage:{acme}:journal', '*', ...fields);
  await redis.sadd(`usage:{acme}:types:${DAY}`, 'requests', 'queries');
  await redis.incrby(`usage:{acme}:${DAY}:requests`, ids.length);
  await redis.incrby(`usage:{acme}:${DAY}:queries`, 3 * ids.length);
  await redis.sadd('usage:pending', 'acme');
}

describe('events that the previous release accepted and did not flush', () => {
  test('are in the totals at once, and move to Postgres with the next drain', async () => {
    await recordBefore('one', ['a', 'b']);
    expect(await current()).toBe('6');
    expect(await ingest.admin.flush.status.query({})).toMatchObject({ pendingKeys: 1, aggregated: false });
    await ingest.admin.usage.record.mutate({ entries: [entry('c')] });
    expect(await current()).toBe('9');
    expect(await ingest.admin.flush.drain.mutate({})).toMatchObject({ recordsAggregated: 3, complete: true });
    expect(await check()).toMatchObject({ balanced: true });
    expect(await current()).toBe('9');
    expect(await redis.get(`usage:acme:${DAY}:queries`)).toBe('9');
    expect(await redis.exists('usage:{acme}:journal', 'usage:pending')).toBe(0);
    expect(await ingest.admin.flush.status.query({})).toMatchObject({ pendingKeys: 0 });
  });

  test('count once when they are sent again to this release', async () => {
    await recordBefore('one', ['a', 'b']);
    await ingest.admin.usage.record.mutate({ entries: [entry('a'), entry('c')] });
    await ingest.admin.flush.drain.mutate({});
    expect(await check()).toMatchObject({ balanced: true });
    expect(await current()).toBe('9');
    expect(await redis.get(`usage:acme:${DAY}:queries`)).toBe('9');
  });

  test('count once when that release had flushed them and died before their removal', async () => {
    await recordBefore('one', ['a', 'b']);
    await ingest.admin.flush.drain.mutate({});
    await sql.query('update usage_events set origin = null');
    await recordBefore('one', ['a', 'b']);
    expect(await current()).toBe('6');
    expect(await ingest.admin.flush.drain.mutate({})).toMatchObject({ recordsAggregated: 0 });
    expect(await check()).toMatchObject({ balanced: true });
    expect(await redis.get(`usage:acme:${DAY}:queries`)).toBe('6');
  });

  test('are drained as long as processes of that release go on', async () => {
    for (const batch of ['one', 'two', 'three']) {
      await recordBefore(batch, [`${batch}-1`, `${batch}-2`]);
      await ingest.admin.usage.record.mutate({ entries: [entry(`new-${batch}`)] });
      await ingest.admin.flush.drain.mutate({});
      expect(await check()).toMatchObject({ balanced: true });
    }
    expect(await current()).toBe('27');
    expect(await redis.get(`usage:acme:${DAY}:queries`)).toBe('27');
  });

  test('are found by the hourly pass where nothing names their merchant', async () => {
    await recordBefore('one', ['a']);
    await redis.del('usage:pending');
    await ingest.admin.reconcile.repair.mutate({});
    expect(await check()).toMatchObject({ balanced: true });
    expect(await redis.get(`usage:acme:${DAY}:queries`)).toBe('3');
  });
});

describe('totals', () => {
  test('that only the previous release had counted are carried over from Postgres', async () => {
    await ingest.admin.usage.record.mutate({ entries: [entry('a')] });
    await ingest.admin.flush.drain.mutate({});
    await redis.flushdb();
    await redis.set(`usage:{acme}:${DAY}:queries`, '3');
    expect(await current()).toBe('3');
    await ingest.admin.usage.record.mutate({ entries: [entry('b')] });
    expect(await current()).toBe('6');
    await ingest.admin.reconcile.repair.mutate({});
    expect(await redis.get(`usage:acme:${DAY}:queries`)).toBe('6');
  });
});

test('stores that disagree on the number of shards stop the flush with a clear error, not ingest', async () => {
  await sql.query('delete from usage_shards');
  await sql.query('insert into usage_shards (shard) select generate_series(0, 6)');
  const other = await startIngest({}, undefined, ingest);
  expect(await other.admin.usage.record.mutate({ entries: [entry('a')] })).toMatchObject({ accepted: 1 });
  expect(await other.admin.flush.run.mutate({})).toMatchObject({
    success: false,
    errors: [{ key: 'usage-shard:count', message: expect.stringMatching(/64 shards.*Postgres 7/) }],
  });
  await other.close();
});
