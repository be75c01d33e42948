import { afterEach, expect, test } from 'vitest';
import { type Fixture, startIngest } from './ingest-fixture.ts';

let ingest: Fixture;

afterEach(() => ingest.close());

const EVENTS = 6;
const MERCHANTS = Array.from({ length: 20 }, (_, index) => `m${index}`);

/** More events in each shard than the first piece reads. */
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
    // The second piece waits until a third one is under way.
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

test('what was counted and not removed by one of two pieces is counted once', async () => {
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
