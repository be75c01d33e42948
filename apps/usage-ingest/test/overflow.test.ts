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

test('a new budget counts usage of values that rollups count under (other)', async () => {
  const merchantId = 'limited';
  await ingest.db.directory.upsert(
    [
      { kind: 'user' as const, id: 'e', team: 'red' },
      { kind: 'apiKey' as const, id: 'k4', team: 'red' },
    ].map((entry) => ({ ...entry, name: entry.id, email: null, role: null, merchantId })),
  );
  const of = (id: string, userId: string, apiKey: string) => ({ ...entryOf(merchantId, id, userId), apiKey });
  await send(of('1', 'a', 'k1'), of('2', 'b', 'k2'), of('3', 'c', 'k3'));
  await drain(merchantId);
  // User d with a key of the team; user e of the team with a known key, twice, one of them taken back.
  await send(of('4', 'd', 'k4'), of('5', 'e', 'k1'), of('6', 'e', 'k1'), of('7', 'a', 'k1'));
  await drain(merchantId);
  await ingest.admin.usage.void.mutate({ merchantId, id: '6', reason: 'test' });
  const dimensions = { userId: 'e', model: 'm' };
  const adjustment = { id: 'more', merchantId, date, metrics: { requests: '10' }, dimensions, reason: 'test' };
  await ingest.admin.usage.adjust.mutate(adjustment);

  const spentOf = async (scope: object, period: 'month' | 'total') => {
    const budget = { scope, measure: 'requests', limit: '1000', period, enforcement: 'soft' } as const;
    const { id } = await ingest.admin.budgets.create.mutate(budget);
    return (await ingest.admin.budgets.status.query({ id })).rows[0]!.spent;
  };
  for (const period of ['month', 'total'] as const) {
    expect(await spentOf({ merchantId, userId: 'a' }, period)).toBe('2');
    expect(await spentOf({ merchantId, userId: 'e' }, period)).toBe('11');
    expect(await spentOf({ merchantId, apiKey: 'k4' }, period)).toBe('1');
    expect(await spentOf({ merchantId, model: 'm' }, period)).toBe('16');
    expect(await spentOf({ merchantId, userId: 'e', model: 'm' }, period)).toBe('11');
    expect(await spentOf({ team: 'red' }, period)).toBe('12');
  }
});
