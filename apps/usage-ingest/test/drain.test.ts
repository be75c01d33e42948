import { until } from '@tally/testkit';
import { afterEach, expect, test } from 'vitest';
import { type Fixture, startIngest } from './ingest-fixture.ts';

let ingest: Fixture;

afterEach(() => ingest.close());

const EVENTS = 6;
const MERCHANTS = Array.from({ length: 20 }, (_, index) => `m${index}`);

/** More events in each shard than the first batch reads. */
async function record(): Promise<void> {
  for (let id = 0; id < EVENTS; id++) {
    const entries = MERCHANTS.map((merchantId) => ({ id: `e${id}`, merchantId, metrics: { prompt_tokens: '1' } }));
    await ingest.admin.usage.record.mutate({ entries });
  }
}

async function requests(): Promise<bigint[]> {
  const rows = await ingest.db.usage.merchantUsage({
    startDate: '2026-11-22',
    endDate: '2026-11-22',
    metricTypes: ['requests'],
  });
  return rows.map((row) => row.metric_value);
}

test('a backlog of more than one piece is counted once, two pieces at a time', async () => {
  let [pieces, isTwo] = [0, () => {}];
  const two = new Promise<void>((resolve) => {
    isTwo = resolve;
  });
  ingest = await startIngest({ FLUSH_PIECE_ENTRIES: '1', POSTGRES_POOL_SIZE: '4' }, async (point) => {
    if (point !== 'flush.before-append') return;
    pieces++;
    // The second batch waits until a third one is in flight.
    if (pieces === 3) isTwo();
    if (pieces === 2) await two;
  });
  await record();
  const { inserted, errors } = await ingest.flush.drainAll();
  expect(errors).toEqual([]);
  expect(pieces).toBeGreaterThan(2);
  expect(inserted).toBe(MERCHANTS.length * EVENTS);
  expect(await requests()).toEqual(MERCHANTS.map(() => BigInt(EVENTS)));
  expect((await ingest.admin.reconcile.check.query({ startDate: '2026-11-22', endDate: '2026-11-22' })).drift).toEqual(
    [],
  );
});

test('a shard whose flush failed is flushed soon, also if the clock is set back', async () => {
  let failures = 0;
  ingest = await startIngest({ ENABLE_FLUSH: 'true', FLUSH_INTERVAL_MS: '20' }, (point) => {
    if (point === 'flush.before-append' && failures++ === 0) throw new Error('for a moment');
  });
  await record();
  await until('a failure', () => failures > 0);
  ingest.clock.now -= 7_200_000;
  const counted = MERCHANTS.map(() => BigInt(EVENTS));
  await until(
    'all to be counted',
    async () => JSON.stringify((await requests()).map(String)) === `["${counted.join('","')}"]`,
  );
});

test('counts a batch once that one of two flushes counted and did not remove', async () => {
  let pieces = 0;
  ingest = await startIngest({ FLUSH_PIECE_ENTRIES: '1' }, (point) => {
    if (point === 'flush.after-commit' && ++pieces === 2) throw new Error('no more');
  });
  await record();
  expect((await ingest.flush.drainAll()).errors.map(({ message }) => message)).toContain('no more');
  expect((await ingest.flush.drainAll()).errors).toEqual([]);
  expect(await requests()).toEqual(MERCHANTS.map(() => BigInt(EVENTS)));
  expect((await ingest.admin.reconcile.check.query({ startDate: '2026-11-22', endDate: '2026-11-22' })).drift).toEqual(
    [],
  );
});

test('calls that need a flush end in time while another process holds the shard, and say what may be missing', async () => {
  ingest = await startIngest();
  const entry = (id: string) => ({ id, merchantId: 'm1', metrics: { prompt_tokens: '1' } });
  await ingest.admin.usage.record.mutate({ entries: [entry('counted')] });
  await ingest.flush.drainAll();
  await ingest.admin.usage.record.mutate({ entries: [entry('waiting')] });
  const all = Array.from({ length: 64 }, (_, shard) => shard);
  const lease = await ingest.db.shards.take(all, all.length, 'another process', 600_000);
  const day = { startDate: '2026-11-22', endDate: '2026-11-22' };
  const reason = 'a test';
  const [adjusted, voided, notFound, conflicts, ofAll, merchant] = await Promise.allSettled([
    ingest.admin.usage.adjust.mutate({
      ...{ id: 'a', merchantId: 'm1', date: '2026-11-22', reason },
      metrics: { prompt_tokens: '5' },
    }),
    ingest.admin.usage.void.mutate({ merchantId: 'm1', id: 'counted', reason }),
    ingest.admin.usage.void.mutate({ merchantId: 'm1', id: 'waiting', reason }),
    ingest.admin.usage.conflicts.query({ ...day, merchantId: 'm1' }),
    ingest.admin.usage.conflicts.query(day),
    ingest.admin.flush.merchant.mutate({ merchantId: 'm1' }),
  ]);
  expect(adjusted).toMatchObject({ status: 'fulfilled' });
  expect(voided).toMatchObject({ status: 'fulfilled' });
  const unavailable = (text: string) => ({
    status: 'rejected',
    reason: { data: { code: 'UNAVAILABLE' }, message: expect.stringContaining(text) },
  });
  expect(notFound).toMatchObject(unavailable('Event waiting is not counted yet'));
  for (const found of [conflicts, ofAll])
    expect(found).toMatchObject({ status: 'fulfilled', value: { rows: [], complete: false } });
  expect(merchant).toMatchObject(unavailable('merchant m1 still wait after 10 s'));
  await ingest.db.shards.release(lease!);
  expect(await ingest.admin.flush.merchant.mutate({ merchantId: 'm1' })).toMatchObject({ success: true });
  expect(await ingest.admin.usage.conflicts.query(day)).toMatchObject({ complete: true });
  await ingest.admin.usage.void.mutate({ merchantId: 'm1', id: 'waiting', reason });
  expect(await ingest.admin.usage.current.query({ merchantId: 'm1' })).toMatchObject({
    metrics: { prompt_tokens: '5', requests: '0' },
    complete: true,
  });
  expect((await ingest.admin.reconcile.check.query(day)).drift).toEqual([]);
});

test('events of a merchant that was being corrected are flushed as soon as it is free, long before the next flush', async () => {
  ingest = await startIngest();
  await record();
  let [isLocked, release] = [() => {}, () => {}];
  const locked = new Promise<void>((resolve) => {
    isLocked = resolve;
  });
  const released = new Promise<void>((resolve) => {
    release = resolve;
  });
  const correction = ingest.db.journal.exclusively([MERCHANTS[0]!], () => {
    isLocked();
    return released;
  });
  await locked;
  const flusher = await startIngest(
    { ENABLE_FLUSH: 'true', FLUSH_INTERVAL_MS: '3600000', POSTGRES_POOL_SIZE: '4' },
    async (point) => {
      if (point === 'flush.after-remove') release();
    },
    ingest,
  );
  await correction;
  const counted = async () =>
    (await requests()).filter((units) => units === BigInt(EVENTS)).length === MERCHANTS.length;
  await until('the events of all merchants are counted', counted);
  await flusher.close();
});

test('a reader is answered while the flush is behind, and told from when on events may be missing', async () => {
  ingest = await startIngest({ POSTGRES_POOL_SIZE: '4' });
  const day = { startDate: '2026-11-22', endDate: '2026-11-22' };
  await ingest.admin.usage.record.mutate({ entries: [{ id: 'e', merchantId: 'm1', metrics: { prompt_tokens: '1' } }] });
  // The event has waited for a minute.
  const [journal] = await ingest.redis.keys('usage-shard:*:journal');
  const [[id, fields]] = (await ingest.redis.xrange(journal!, '-', '+')) as [[string, string[]]];
  const recordedAt = Number(id.split('-')[0]) - 60_000;
  await ingest.redis.del(journal!);
  await ingest.redis.xadd(journal!, `${recordedAt}-0`, ...fields);
  ingest.clock.now = Date.now();
  // Nothing of the merchant is counted meanwhile.
  const answers = await ingest.db.journal.exclusively(['m1'], async () =>
    Promise.all([
      ingest.admin.flush.beforeRead.mutate({ merchantIds: ['m1'] }),
      ingest.admin.flush.beforeRead.mutate({}),
      ingest.admin.reconcile.check.query(day).catch((error: { data?: { code: string } }) => error.data?.code),
    ]),
  );
  const partial = { recordsAggregated: 0, complete: false, asOf: new Date(recordedAt).toISOString() };
  expect(answers).toEqual([partial, partial, 'UNAVAILABLE']);
  expect(await ingest.admin.flush.beforeRead.mutate({})).toMatchObject({ complete: true });
  expect((await ingest.admin.reconcile.check.query(day)).balanced).toBe(true);
});
