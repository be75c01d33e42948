import type { UsageEntry } from '@tally/contracts';
import fc from 'fast-check';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { type Fixture, startIngest } from './ingest-fixture.ts';

let ingest: Fixture;
let merchants = 0;
let merchantId: string;

beforeAll(async () => {
  ingest = await startIngest();
});
beforeEach(() => {
  merchantId = `rerated-${merchants++}`;
});
afterAll(() => ingest.close());

const entry = (id: string, more: Partial<UsageEntry> = {}): UsageEntry => ({
  ...{ id, merchantId, time: '2026-11-22T10:00:00Z', metrics: { prompt_tokens: '1000000' }, model: 'gpt-4o' },
  ...more,
});
const record = (...entries: UsageEntry[]) => ingest.admin.usage.record.mutate({ entries });
const setInput = (amount: string) =>
  ingest.admin.prices.set.mutate({
    ...{ merchantId, component: 'input', amount, per: 1_000_000, validFrom: '2026-01-01T00:00:00Z' },
  });
const rerate = (dryRun: boolean) =>
  ingest.admin.prices.rerate.mutate({
    ...{ startDate: '2026-11-20', endDate: '2026-11-22', merchantIds: [merchantId], dryRun },
  });
const costOf = async () => {
  const asked = { merchantId, date: '2026-11-22', metricType: 'cost' };
  return (await ingest.admin.usage.explain.query(asked)).value;
};
const balanced = async () =>
  (
    await ingest.admin.reconcile.check.query({
      ...{ startDate: '2026-11-20', endDate: '2026-11-22', merchantIds: [merchantId] },
    })
  ).balanced;

test('reports differences first, then applies them once, and again after the next change', async () => {
  await setInput('2');
  await record(entry('a', { userId: 'ada' }), entry('b', { userId: 'bob' }), entry('c', { metrics: { cost: '9' } }));
  const row = { merchantId, date: '2026-11-22', provider: null, model: 'gpt-4o', events: 2, unpriced: 0 };
  expect(await rerate(true)).toMatchObject({ difference: '0', rows: [{ ...row, old: '4', new: '4' }] });
  const { addedIn } = await setInput('3');
  expect(await rerate(true)).toMatchObject({
    ...{ version: addedIn, complete: true, adjustments: 0, old: '4', new: '6', difference: '2' },
    rows: [{ ...row, old: '4', new: '6', difference: '2' }],
  });
  expect(await costOf()).toBe('13');
  expect(await rerate(false)).toMatchObject({ adjustments: 2, difference: '2' });
  expect(await costOf()).toBe('15');
  expect(await rerate(false)).toMatchObject({ adjustments: 0, old: '6', new: '6', difference: '0' });
  await setInput('2');
  expect(await rerate(false)).toMatchObject({ adjustments: 2, difference: '-2' });
  await setInput('3');
  await Promise.all([rerate(false), rerate(false)]);
  expect(await costOf()).toBe('15');
  expect(await balanced()).toBe(true);
});

test('prices what had no price, and leaves what has none now and what was voided', async () => {
  await setInput('2');
  const both = { prompt_tokens: '1000000', completion_tokens: '1000000' };
  await record(entry('a'), entry('b', { metrics: both }));
  expect(await costOf()).toBe('2');
  await ingest.admin.prices.set.mutate({
    ...{ merchantId, component: 'output', amount: '5', per: 1_000_000, validFrom: '2026-01-01T00:00:00Z' },
  });
  expect(await rerate(false)).toMatchObject({ old: '2', new: '9', rows: [{ unpriced: 0 }] });
  await ingest.admin.usage.void.mutate({ merchantId, id: 'b', reason: 'never happened' });
  // What the re-rating added for a voided event goes with the next one.
  expect(await rerate(false)).toMatchObject({ adjustments: 1, new: '2' });
  expect(await costOf()).toBe('2');
  const { rows } = await ingest.admin.prices.list.query({ merchantId });
  for (const { id } of rows) await ingest.admin.prices.remove.mutate({ id });
  expect(await rerate(false)).toMatchObject({ adjustments: 0, rows: [{ unpriced: 1, new: '2' }] });
  expect(await balanced()).toBe(true);
});

test('ends where pricing at first would have ended, whatever happened before', async () => {
  const amount = fc.integer({ min: 0, max: 9 });
  const step = fc.oneof(
    fc.record({ set: amount }),
    fc.record({ record: fc.integer({ min: 1, max: 3 }) }),
    fc.constant({ rerate: true }),
  );
  let round = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 8 }), amount, async (steps, last) => {
      merchantId = `law-${round++}`;
      let events = 0;
      for (const each of steps) {
        if ('set' in each) await setInput(String(each.set));
        else if ('rerate' in each) await rerate(false);
        else for (let n = 0; n < each.record; n++) await record(entry(`e${events++}`, { userId: `u${events % 2}` }));
      }
      await setInput(String(last));
      await rerate(false);
      expect(await rerate(false)).toMatchObject({ adjustments: 0, difference: '0' });
      if (events > 0) expect(await costOf().catch(() => '0')).toBe(String(events * last));
    }),
    { numRuns: 6 },
  );
});
