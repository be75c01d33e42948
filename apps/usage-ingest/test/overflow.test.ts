import type { UsageEntry } from '@tally/contracts';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Fixture, startIngest } from './ingest-fixture.ts';

let ingest: Fixture;
let fail = false;
const date = '2026-11-22';

beforeAll(async () => {
  ingest = await startIngest({ MAX_DIMENSION_VALUES_PER_DAY: '3' }, (point) => {
    if (fail && point === 'record.before-redis') throw new Error('redis fails');
  });
});
afterAll(() => ingest.close());

const entryOf = (merchantId: string, id: string, userId: string): UsageEntry => ({
  ...{ id, merchantId, userId, model: 'm', time: `${date}T10:00:00Z` },
  metrics: { prompt_tokens: '10' },
});
const send = (...entries: UsageEntry[]) => ingest.admin.usage.record.mutate({ entries });
const drain = (merchantId: string) => ingest.admin.flush.merchant.mutate({ merchantId });
const users = async (merchantId: string) => {
  const parts = [{ cube: 'usage_daily', startDate: date, endDate: date }] as const;
  const question = { by: 'user', sortBy: 'key', order: 'asc', limit: 100 } as const;
  const { rows } = await ingest.db.usage.breakdown({ ...question, parts: [...parts], merchantIds: [merchantId] });
  return Object.fromEntries(rows.map((row) => [row.keys[0], Number(row.requests)]));
};

test('refuses no usage for its cardinality: later values count under (other), and producers are warned', async () => {
  const many = ['a', 'b', 'c', 'd', 'e'];
  const first = await send(...many.map((user) => entryOf('acme', `1-${user}`, user)));
  expect(first).toMatchObject({ accepted: 5, rejected: [], warnings: [] });
  await drain('acme');
  expect(await users('acme')).toEqual({ a: 1, b: 1, c: 1, '(other)': 2 });

  const warning = (index: number) => ({
    ...{ index, code: 'DIMENSION_OVERFLOW' },
    message: `acme has as many users on ${date} as rollups may have; others are counted under (other).`,
  });
  const predicted = await send(entryOf('acme', '2-a', 'a'), entryOf('acme', '2-d', 'd'));
  expect(predicted).toMatchObject({ accepted: 2, rejected: [], warnings: [warning(1)] });
  fail = true;
  const direct = await send(entryOf('acme', '3-b', 'b'), entryOf('acme', '3-f', 'f'));
  fail = false;
  expect(direct).toMatchObject({ accepted: 2, rejected: [], warnings: [warning(1)] });
  await drain('acme');
  expect(await users('acme')).toEqual({ a: 2, b: 2, c: 1, '(other)': 4 });

  // The journal keeps what was sent.
  const { rows } = await ingest.admin.usage.recent.query({ merchantId: 'acme' });
  expect(new Set(rows.map((row) => row.userId))).toEqual(new Set([...many, 'f']));
  const range = { startDate: date, endDate: date, merchantIds: ['acme'] };
  expect((await ingest.admin.reconcile.check.query(range)).drift).toEqual([]);
  await ingest.admin.reconcile.rebuild.mutate(range);
  expect(await users('acme')).toEqual({ a: 2, b: 2, c: 1, '(other)': 4 });
  const metrics = await ingest.app.request('http://ingest/metrics');
  expect(await metrics.text()).toContain('tally_dimension_overflow_total{dimension="user_id"} 4');
});

test('a merchant, a day and a dimension have a limit each', async () => {
  await send(...['a', 'b', 'c', 'd'].map((user) => entryOf('one', user, user)));
  await send(...['w', 'x', 'y'].map((user) => entryOf('other', user, user)));
  await drain('one');
  await drain('other');
  expect(await users('one')).toEqual({ a: 1, b: 1, c: 1, '(other)': 1 });
  expect(await users('other')).toEqual({ w: 1, x: 1, y: 1 });
});
