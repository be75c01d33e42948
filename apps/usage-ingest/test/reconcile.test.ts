import pg from 'pg';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { type Fixture, startIngest } from './ingest-fixture.ts';

const DAY = '2026-11-22';
const RANGE = { startDate: DAY, endDate: DAY };

let ingest: Fixture;
let sql: pg.Client;
beforeAll(async () => {
  ingest = await startIngest({ USAGE_SHARDS: '4' });
  sql = new pg.Client({ connectionString: ingest.databaseUrl });
  await sql.connect();
});
afterAll(async () => {
  await sql.end();
  await ingest.close();
});

let ids = 0;
/** Records an event of each of these merchants; without `waiting` they are flushed. */
async function record(merchantIds: readonly string[], flush = true) {
  const entries = merchantIds.map((merchantId) => ({ id: `e${ids++}`, merchantId, metrics: { prompt_tokens: '3' } }));
  expect(await ingest.admin.usage.record.mutate({ entries })).toMatchObject({ accepted: entries.length });
  if (flush) await ingest.flush.drainAll();
}
const merchants = Array.from({ length: 12 }, (_, index) => `merchant-${index}`);

beforeEach(async () => {
  await record(merchants);
  await ingest.reconcile.repairChanged();
});

test('the hourly pass compares what changed since it was found right, and nothing else', async () => {
  expect(await ingest.reconcile.repairChanged()).toMatchObject({ balanced: true, merchantsChecked: 0 });
  await record(['merchant-3', 'merchant-7']);
  expect(await ingest.reconcile.repairChanged()).toMatchObject({ balanced: true, merchantsChecked: 2 });
  expect(await ingest.reconcile.repairChanged()).toMatchObject({ balanced: true, merchantsChecked: 0 });
});

test('a difference is reported by every hourly pass until it is gone', async () => {
  await record(['merchant-5']);
  await sql.query(`update usage_daily set prompt_tokens = prompt_tokens + 1 where merchant_id = 'merchant-5'`);
  for (let pass = 0; pass < 2; pass++) {
    const { balanced, drift } = await ingest.reconcile.repairChanged();
    expect(balanced).toBe(false);
    expect(drift).toContainEqual(expect.objectContaining({ merchantId: 'merchant-5', date: DAY }));
  }
  await ingest.admin.reconcile.rebuild.mutate({ ...RANGE, merchantIds: ['merchant-5'] });
  expect(await ingest.reconcile.repairChanged()).toMatchObject({ balanced: true });
});

test('the nightly pass finds what differs although nothing changed', async () => {
  await sql.query(`update merchant_usage set metric_value = metric_value + 1 where merchant_id = 'merchant-1'`);
  expect(await ingest.reconcile.repairChanged()).toMatchObject({ balanced: true, merchantsChecked: 0 });
  const { drift } = await ingest.admin.reconcile.repair.mutate({});
  expect(new Set(drift.map((each) => each.merchantId))).toEqual(new Set(['merchant-1']));
  await ingest.admin.reconcile.rebuild.mutate({ ...RANGE, merchantIds: ['merchant-1'] });
});

test('a comparison ends soon after its caller has gone', async () => {
  let asked = 0;
  const check = ingest.reconcile.check(RANGE, () => ++asked > 2);
  await expect(check).rejects.toMatchObject({ code: 'UNAVAILABLE' });
  expect(asked).toBe(3);
});

test('totals that Redis lost are repaired by the hourly pass, and are no drift', async () => {
  await record(merchants, false);
  await ingest.flush.drainAll();
  const { metrics } = await ingest.admin.usage.current.query({ merchantId: 'merchant-2' });
  // Like after a start from an empty snapshot: the totals are gone, and so is the mark of their repair.
  await ingest.redis.flushdb();
  expect(await ingest.reconcile.repairChanged()).toMatchObject({ balanced: true, drift: [], repaired: 12 });
  expect((await ingest.admin.usage.current.query({ merchantId: 'merchant-2' })).metrics).toEqual(metrics);
  expect(await ingest.admin.reconcile.check.query(RANGE)).toMatchObject({ balanced: true, merchantsChecked: 12 });
});

test('totals that are known to be wrong are answered from Postgres, in every process, until they are repaired', async () => {
  await ingest.repair.afterRestart();
  const merchantId = 'merchant-3';
  const requests = async () => (await ingest.admin.usage.current.query({ merchantId, date: DAY })).metrics.requests;
  const total = ingest.keys.total(merchantId, DAY);
  const inRedis = async () => (await ingest.redis.get(`${total.prefix}requests${total.suffix}`))!;
  const before = await requests();
  expect(before).toBe(await inRedis());
  // Another process wrote it, while Redis did not answer that one.
  const line = { merchant_id: merchantId, date: DAY, id: 'direct', time: Date.parse(DAY), requests: '1' };
  await ingest.db.journal.append({ source: 'direct', lines: [{ ...line, origin: 'direct' }] });
  await ingest.repair.distrust();
  const after = String(BigInt(before!) + 1n);
  expect([await requests(), await inRedis()]).toEqual([after, before]);
  await ingest.reconcile.settle();
  await ingest.repair.distrust();
  expect([await requests(), await inRedis()]).toEqual([after, after]);
  expect(await ingest.redis.keys('usage-shard:*:stale')).toEqual([]);
});
