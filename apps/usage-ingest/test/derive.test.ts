import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Fixture, startIngest } from './ingest-fixture.ts';

let ingest: Fixture;

beforeAll(async () => {
  ingest = await startIngest({ DERIVE_SLICE_EVENTS: '2' });
});
afterAll(() => ingest.close());

const record = async (ids: readonly string[]) => {
  const entries = ids.map((id) => ({ id, merchantId: 'acme', metrics: { cost: '0.5' }, userId: 'ada', model: 'm' }));
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
  expect(await ingest.db.derivations.lag()).toEqual({ flushes: 0, events: 0, oldestMs: 0 });
  expect(await requestsOf('usage_monthly')).toBe(5n);
  expect(await requestsOf('usage_platform_daily')).toBe(5n);
  expect(await metric('tally_derive_events_total')).toBe(5);
  expect(await metric('tally_derive_slice_seconds_count')).toBe(3);
  expect(await metric('tally_derive_pending_events')).toBe(0);
  expect(await metric('tally_derive_lag_seconds')).toBe(0);
  await ingest.derive.run();
  expect(await metric('tally_derive_slice_seconds_count')).toBe(3);
});

test('the flush derives, too, while more than 25 slices wait', async () => {
  const batches = Array.from({ length: 8 }, (_, batch) => Array.from({ length: 10 }, (_, id) => `${batch}-${id}`));
  for (const ids of batches) {
    await record(ids);
    expect((await ingest.db.derivations.lag()).events).toBeLessThanOrEqual(60);
  }
  expect(await requestsOf('usage_monthly')).toBe(85n);
  expect(await metric('tally_derive_events_total')).toBe(5 + 20);
  await ingest.derive.run();
  expect(await requestsOf('usage_monthly')).toBe(85n);
});

test('a day is closed once its events were derived, and the records of its flushes go with it', async () => {
  await record(['f']);
  ingest.clock.now = Date.now() + 40 * 86_400_000;
  expect((await ingest.admin.journal.close.mutate({})).closed).toEqual(['2026-11-22']);
  expect(await requestsOf('usage_monthly')).toBe(86n);
  expect(await ingest.db.derivations.prune(10)).toBe(0);
});
