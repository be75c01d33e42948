import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Fixture, startIngest } from './ingest-fixture.ts';

let ingest: Fixture;
let sql: pg.Client;

beforeAll(async () => {
  ingest = await startIngest({ DERIVE_SLICE_EVENTS: '2' });
  sql = new pg.Client({ connectionString: ingest.databaseUrl });
  await sql.connect();
  await sql.query(`update usage_rolled_up set date = '2026-11-20', quarter_month = '2026-11-16'`);
});
afterAll(async () => {
  await sql.end();
  await ingest.close();
});

const record = async (ids: readonly string[], time?: string) => {
  const what = { merchantId: 'acme', metrics: { cost: '0.5' }, userId: 'ada', model: 'm', ...(time && { time }) };
  const entries = ids.map((id) => ({ id, ...what }));
  await ingest.admin.usage.record.mutate({ entries });
  await ingest.admin.flush.merchant.mutate({ merchantId: 'acme' });
};

const metric = async (name: string) => {
  const response = await ingest.app.request('/metrics');
  const line = (await response.text()).split('\n').find((each) => each.startsWith(`${name}`) && !each.startsWith('#'));
  return Number(line?.split(' ').at(-1));
};

const requestsOf = async (cube: 'usage_monthly' | 'usage_platform_daily') => {
  const parts = [{ cube, startDate: '2026-11-01', endDate: '2026-11-30' }];
  return (await ingest.db.usage.totals({ parts })).requests;
};

test('adds what was counted to the coarse rollups in slices, and shows how much is left', async () => {
  await record(['a', 'b']);
  await record(['c']);
  await record(['d', 'e']);
  // Exact before anything is derived, and after.
  expect(await requestsOf('usage_monthly')).toBe(5n);
  expect(await ingest.db.derivations.lag()).toMatchObject({ flushes: 3, events: 5 });
  await ingest.derive.run();
  expect(await ingest.db.derivations.lag()).toMatchObject({ flushes: 0, events: 0, oldestMs: 0 });
  expect(await requestsOf('usage_monthly')).toBe(5n);
  expect(await requestsOf('usage_platform_daily')).toBe(5n);
  expect(await metric('tally_derive_events_total')).toBe(5);
  expect(await metric('tally_derive_slice_seconds_count')).toBe(3);
  expect(await metric('tally_derive_pending_events')).toBe(0);
  expect(await metric('tally_derive_lag_seconds')).toBe(0);
  await ingest.derive.run();
  expect(await metric('tally_derive_slice_seconds_count')).toBe(3);
});

test('the flush derives, too, while more than 8 slices wait', async () => {
  const batches = Array.from({ length: 8 }, (_, batch) => Array.from({ length: 10 }, (_, id) => `${batch}-${id}`));
  for (const ids of batches) {
    await record(ids);
    expect((await ingest.db.derivations.lag()).events).toBeLessThanOrEqual(26);
  }
  expect(await requestsOf('usage_monthly')).toBe(85n);
  expect(await metric('tally_derive_events_total')).toBe(5 + 60);
  await ingest.derive.run();
  expect(await requestsOf('usage_monthly')).toBe(85n);
});

test('a day is added to months and years an hour after its end, and what comes later is added as it is derived', async () => {
  const noon = ingest.clock.now;
  const inMonths = async () => {
    const { rows } = await sql.query('select coalesce(sum(requests), 0)::int as requests from usage_monthly');
    return rows[0].requests;
  };
  ingest.clock.now = Date.parse('2026-11-23T00:59:59Z');
  await ingest.derive.run();
  expect(await inMonths()).toBe(0);
  expect(await metric('tally_derive_open_days')).toBe(0);
  ingest.clock.now += 1_000;
  await ingest.derive.run();
  expect(await inMonths()).toBe(85);
  expect(await requestsOf('usage_monthly')).toBe(85n);
  await record(['late'], '2026-11-22T20:00:00Z');
  expect(await requestsOf('usage_monthly')).toBe(86n);
  await ingest.derive.run();
  expect(await inMonths()).toBe(86);
  expect(await requestsOf('usage_monthly')).toBe(86n);
  ingest.clock.now = noon;
});

test('a day is closed once its events were derived, and the records of its flushes go with it', async () => {
  await record(['f']);
  ingest.clock.now = Date.now() + 40 * 86_400_000;
  expect((await ingest.admin.journal.close.mutate({})).closed).toEqual(['2026-11-22']);
  expect(await requestsOf('usage_monthly')).toBe(87n);
  expect(await ingest.db.derivations.prune(10)).toBe(0);
});
