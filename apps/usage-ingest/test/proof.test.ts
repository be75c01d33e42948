import type { UsageEntry } from '@tally/contracts';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Fixture, startIngest } from './ingest-fixture.ts';

const DAY = '2026-11-22';

let ingest: Fixture;
let sql: pg.Client;
let merchants = 0;
const newMerchant = () => `merchant-${merchants++}`;

beforeAll(async () => {
  ingest = await startIngest({ MAX_METRIC_TYPES_PER_DAY: '4' });
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
const record = (entries: UsageEntry[], more = {}) => ingest.admin.usage.record.mutate({ entries, ...more });
const flush = (merchantId: string) => ingest.admin.flush.merchant.mutate({ merchantId });
const check = (merchantId: string) =>
  ingest.admin.reconcile.check.query({ startDate: '2026-10-01', endDate: DAY, merchantIds: [merchantId] });

describe('reconcile.check', () => {
  test('finds balanced what is balanced, pending or not', async () => {
    const merchantId = newMerchant();
    await record([entry(merchantId, 'a'), entry(merchantId, 'b', { status: 'failure' })]);
    expect(await check(merchantId)).toMatchObject({ balanced: true, drift: [], merchantsChecked: 1 });
    await flush(merchantId);
    await record([entry(merchantId, 'c')]);
    expect(await check(merchantId)).toMatchObject({ balanced: true, drift: [], numbersChecked: 5 });
  });

  test('names the entry that was taken out of the journal', async () => {
    const merchantId = newMerchant();
    await record([entry(merchantId, 'kept'), entry(merchantId, 'stolen', { userId: 'eve' })]);
    await flush(merchantId);
    await sql.query('delete from usage_events where merchant_id = $1 and id = $2', [merchantId, 'stolen']);
    const { balanced, drift } = await check(merchantId);
    expect(balanced).toBe(false);
    expect(drift.find((row) => row.metricType === 'prompt_tokens')).toMatchObject({
      date: DAY,
      journal: '10',
      daily: '20',
      usage: '20',
      live: '20',
      drift: '10',
      suspects: [{ id: 'stolen', why: 'acknowledged, but not in the journal' }],
    });
  });

  test('names the entry whose amount was changed', async () => {
    const merchantId = newMerchant();
    await record([entry(merchantId, 'honest', { userId: 'ada' }), entry(merchantId, 'inflated', { userId: 'eve' })]);
    await flush(merchantId);
    await ingest.derive.run();
    await sql.query('update usage_events set prompt_tokens = 99 where merchant_id = $1 and id = $2', [
      merchantId,
      'inflated',
    ]);
    const { drift } = await check(merchantId);
    expect(drift).toEqual([
      expect.objectContaining({
        metricType: 'prompt_tokens',
        journal: '109',
        daily: '20',
        drift: '-89',
        suspects: [{ id: 'inflated', why: expect.any(String) }],
      }),
    ]);
  });

  test.each([
    ['usage_daily', 'daily'],
    ['usage_daily_models', 'dailyModels'],
    ['usage_quarter_hours', 'quarterHours'],
    ['usage_monthly', 'monthly'],
    ['usage_yearly', 'yearly'],
  ])('sees that %s was broken', async (table, book) => {
    const merchantId = newMerchant();
    await record([entry(merchantId, 'a')]);
    await flush(merchantId);
    await ingest.derive.run();
    await sql.query(`update ${table} set requests = requests + 1 where merchant_id = $1`, [merchantId]);
    const { drift } = await check(merchantId);
    expect(drift.some((row) => (row as Record<string, unknown>)[book] === '2')).toBe(true);
  });

  test('sees that a quarter of a month was broken', async () => {
    const merchantId = newMerchant();
    await record([entry(merchantId, 'a')]);
    await flush(merchantId);
    await ingest.derive.run();
    await sql.query('update usage_quarter_months set requests = requests + 1 where merchant_id = $1', [merchantId]);
    const { drift } = await check(merchantId);
    expect(drift).toMatchObject([{ rollup: 'usage_quarter_months', metricType: 'requests', journal: '1', drift: '1' }]);
  });

  test('rebuild has every sum again from the entries and adjustments, and changes nothing that is right', async () => {
    const merchantId = newMerchant();
    const days = ['2026-10-31', '2026-11-01', DAY].map((date) => ({ time: `${date}T23:50:00Z` }));
    await record(
      days.flatMap((day, index) => [
        entry(merchantId, `a${index}`, { ...day, userId: 'ada', model: 'm', metrics: { cost: '0.5', seats: '3' } }),
        entry(merchantId, `b${index}`, { ...day, userId: 'eve', status: 'failure', count: index + 1 }),
      ]),
    );
    await flush(merchantId);
    const correction = {
      metrics: { prompt_tokens: '-4', seats: '1' },
      dimensions: { userId: 'eve' },
      reason: 'a test',
    };
    await ingest.admin.usage.adjust.mutate({ id: 'less', merchantId, date: DAY, ...correction });
    await ingest.derive.run();
    const tables = [
      'usage_daily',
      'usage_monthly',
      'usage_yearly',
      'usage_quarter_months',
      'usage_daily_models',
      'usage_monthly_models',
      'usage_quarter_hours',
      'merchant_usage',
    ];
    const sums = async () => {
      const read = async (table: string) =>
        (await sql.query(`select * from ${table} where merchant_id = $1 order by 1, 2, 3, 4`, [merchantId])).rows;
      return Object.fromEntries(await Promise.all(tables.map(async (table) => [table, await read(table)] as const)));
    };
    const right = await sums();
    const scope = { startDate: '2026-10-31', endDate: DAY, merchantIds: [merchantId] };
    expect(await ingest.admin.reconcile.rebuild.mutate(scope)).toMatchObject({ merchants: 1, days: 23, closedDays: 0 });
    expect(await sums()).toEqual(right);
    for (const table of tables.slice(0, 6)) {
      await sql.query(`update ${table} set requests = requests + 1, cost = 7 where merchant_id = $1`, [merchantId]);
      await sql.query(`delete from ${table} where merchant_id = $1 and model = 'm'`, [merchantId]);
    }
    await sql.query('delete from merchant_usage where merchant_id = $1', [merchantId]);
    expect((await check(merchantId)).balanced).toBe(false);
    // A merchant missing from every sum is still found.
    for (const table of tables) await sql.query(`delete from ${table} where merchant_id = $1`, [merchantId]);
    const { drift } = await ingest.admin.reconcile.check.query({ startDate: '2026-10-31', endDate: '2026-10-31' });
    expect(drift).toContainEqual(
      expect.objectContaining({ merchantId, metricType: 'seats', journal: '3', usage: '0' }),
    );
    await ingest.admin.reconcile.rebuild.mutate(scope);
    expect(await sums()).toEqual(right);
    expect(await check(merchantId)).toMatchObject({ balanced: true });
  });

  test('a total that Redis lost or holds wrong is seen, and repair sets it right', async () => {
    const merchantId = newMerchant();
    await record([entry(merchantId, 'a')]);
    await flush(merchantId);
    await record([entry(merchantId, 'b')]);
    await ingest.redis.incrby(`usage:${merchantId}:${DAY}:prompt_tokens`, 5);
    await ingest.redis.del(`usage:${merchantId}:${DAY}:requests`);
    const { drift } = await check(merchantId);
    expect(drift.map(({ metricType, live, usage }) => [metricType, live, usage])).toEqual([
      ['prompt_tokens', '15', '10'],
      ['requests', '-1', '1'],
    ]);
    expect(await ingest.admin.reconcile.repair.mutate({})).toMatchObject({ balanced: false });
    expect(await check(merchantId)).toMatchObject({ balanced: true });
    expect((await ingest.admin.usage.current.query({ merchantId })).metrics).toEqual({
      prompt_tokens: '20',
      requests: '2',
    });
  });
});

describe('usage.explain', () => {
  test('goes from a number to its flushes, its adjustments and its entries', async () => {
    const merchantId = newMerchant();
    await record([
      entry(merchantId, 'a', { metrics: { cost: '0.5' } }),
      entry(merchantId, 'b', { count: 4, metrics: { cost: '0.25' } }),
    ]);
    await flush(merchantId);
    await record([entry(merchantId, 'c', { metrics: { cost: '1' } }), entry(merchantId, 'no cost')]);
    const adjustment = {
      id: 'refund-1',
      merchantId,
      date: DAY,
      metrics: { cost: '-0.75' },
      reason: 'the provider credited it',
    };
    await ingest.admin.usage.adjust.mutate(adjustment);
    const ask = (more = {}) => ingest.admin.usage.explain.query({ merchantId, date: DAY, metricType: 'cost', ...more });
    const explained = await ask({ limit: 2 });
    expect(explained).toMatchObject({
      value: '1',
      entryCount: '3',
      callCount: '6',
      adjustments: [{ id: 'refund-1', metrics: { cost: '-0.75' }, reason: 'the provider credited it', actor: 'admin' }],
      nextCursor: expect.any(String),
    });
    expect(explained.flushes.map(({ source, entries, value }) => [source, entries, value])).toEqual([
      ['stream', '1', '1'],
      ['stream', '2', '0.75'],
    ]);
    expect(explained.entries.map(({ id }) => id)).toEqual(['a', 'b']);
    const rest = await ask({ limit: 2, cursor: explained.nextCursor! });
    expect(rest.entries.map(({ id }) => id)).toEqual(['c']);
    expect(rest.nextCursor).toBeNull();
  });
});

describe('usage.adjust', () => {
  test('counts once per id, in every book, and says who and why', async () => {
    const merchantId = newMerchant();
    await record([entry(merchantId, 'a', { userId: 'ada' })]);
    const call = {
      id: 'fix',
      merchantId,
      date: DAY,
      metrics: { prompt_tokens: '-4', seats: '2' },
      dimensions: { userId: 'ada' },
      reason: 'counted by mistake',
    };
    const first = await ingest.admin.usage.adjust.mutate(call);
    expect(first).toMatchObject({
      metrics: { prompt_tokens: '-4', seats: '2' },
      dimensions: { userId: 'ada', model: null },
    });
    expect(await ingest.admin.usage.adjust.mutate(call)).toEqual(first);
    await expect(ingest.admin.usage.adjust.mutate({ ...call, metrics: { prompt_tokens: '-5' } })).rejects.toMatchObject(
      { data: { code: 'CONFLICT' } },
    );
    expect((await ingest.admin.usage.current.query({ merchantId })).metrics).toEqual({
      prompt_tokens: '6',
      requests: '1',
      seats: '2',
    });
    expect(await check(merchantId)).toMatchObject({ balanced: true });
  });

  test.each([{}, { prompt_tokens: '0' }, { prompt_tokens: '1.5' }, { total_tokens: '1' }, { cost: '0.0000000001' }])(
    'refuses %o',
    async (metrics) => {
      const call = {
        id: 'x',
        merchantId: newMerchant(),
        date: DAY,
        metrics: metrics as Record<string, string>,
        reason: 'none',
      };
      await expect(ingest.admin.usage.adjust.mutate(call)).rejects.toMatchObject({ data: { httpStatus: 400 } });
    },
  );
});

test('a day that has not begun anywhere has nothing to correct', async () => {
  const call = { id: 'x', merchantId: newMerchant(), metrics: { cost: '1' }, reason: 'none' };
  for (const date of ['2026-11-24', '9998-12-31']) {
    await expect(ingest.admin.usage.adjust.mutate({ ...call, date })).rejects.toMatchObject({
      data: { code: 'TIME_IN_FUTURE' },
    });
  }
});

describe('dead letters', () => {
  test('an entry that Postgres refuses does not stop the others, is shown, and is counted once it can be', async () => {
    const merchantId = newMerchant();
    await sql.query(`insert into merchant_usage values ($1, $2, 'prompt_tokens', 9223372036854775800)`, [
      merchantId,
      DAY,
    ]);
    await record([entry(merchantId, 'fits', { metrics: { bytes: '1' } }), entry(merchantId, 'too much')]);
    const run = await flush(merchantId);
    expect(run).toMatchObject({ success: true, recordsAggregated: 1 });
    const { rows } = await ingest.admin.deadLetters.list.query({ merchantId });
    expect(rows).toEqual([
      expect.objectContaining({ entryId: 'too much', code: 'TOTAL_LIMIT', attempts: 1, resolvedAt: null }),
    ]);
    expect(await ingest.admin.deadLetters.retry.mutate({ merchantId })).toMatchObject({
      counted: 0,
      stillRefused: [{ entryId: 'too much' }],
    });
    await sql.query(`delete from merchant_usage where merchant_id = $1 and metric_type = 'prompt_tokens'`, [
      merchantId,
    ]);
    expect(await check(merchantId)).toMatchObject({ balanced: true });
    expect(await ingest.admin.deadLetters.retry.mutate({ merchantId })).toEqual({
      counted: 1,
      stillRefused: [],
      left: 0,
    });
    expect((await ingest.admin.deadLetters.list.query({ merchantId })).rows).toEqual([]);
    expect(await check(merchantId)).toMatchObject({ balanced: true });
  });
});

describe('limits', () => {
  test('a day has so many metric types and no more; the rest of the batch is counted', async () => {
    const merchantId = newMerchant();
    const typed = (id: string, type: string) => entry(merchantId, id, { metrics: { [type]: '1' } });
    expect(await record([typed('1', 'a'), typed('2', 'b'), typed('3', 'c')])).toMatchObject({ accepted: 3 });
    expect(await record([typed('4', 'd'), typed('5', 'a')])).toMatchObject({
      accepted: 1,
      rejected: [{ index: 0, code: 'CARDINALITY_LIMIT' }],
    });
    expect((await ingest.admin.usage.current.query({ merchantId })).metrics).toEqual({
      a: '2',
      b: '1',
      c: '1',
      requests: '4',
    });
  });

  test('usage is accepted however many users, keys, models and providers it has', async () => {
    const merchantId = newMerchant();
    const entries = Array.from({ length: 1_000 }, (_, index) =>
      entry(merchantId, `e${index}`, { userId: `u${index}` }),
    );
    expect(await record(entries)).toMatchObject({ accepted: 1_000, rejected: [] });
  });
});

describe('retention', () => {
  test('a closed day keeps its sums and its proof, and takes no more entries', async () => {
    const own = await startIngest();
    const merchantId = 'aging';
    const mine = (id: string) => entry(merchantId, id, { metrics: { prompt_tokens: '10', seats: '3' } });
    await own.admin.usage.record.mutate({ entries: [mine('a'), mine('b')] });
    await own.admin.flush.merchant.mutate({ merchantId });
    own.clock.now = Date.now() + 36 * 86_400_000;
    expect((await own.admin.journal.close.mutate({})).closed).toEqual([DAY]);
    expect(await own.admin.journal.close.mutate({})).toEqual({ closed: [] });
    await expect(own.admin.usage.explain.query({ merchantId, date: DAY, metricType: 'seats' })).rejects.toMatchObject({
      data: { code: 'JOURNAL_DROPPED', details: { value: '6' } },
    });
    const late = await own.admin.usage.record.mutate({
      entries: [mine('c'), { ...mine('d'), time: '2026-11-23T00:00:00Z' }, mine('e')],
      backfill: true,
    });
    expect(late).toMatchObject({
      accepted: 1,
      rejected: [
        { index: 0, code: 'DAY_CLOSED', message: expect.stringContaining(DAY) },
        { index: 2, code: 'DAY_CLOSED' },
      ],
    });
    const scope = { startDate: DAY, endDate: DAY };
    expect(await own.admin.reconcile.check.query(scope)).toMatchObject({ balanced: true, numbersChecked: 6 });
    await own.admin.usage.adjust.mutate({
      id: 'after',
      merchantId,
      date: DAY,
      metrics: { seats: '-1' },
      reason: 'late correction',
    });
    expect(await own.admin.reconcile.check.query(scope)).toMatchObject({ balanced: true });
    // A closed day keeps its daily sums, and all others come from them and the kept sums.
    const client = new pg.Client({ connectionString: own.databaseUrl });
    await client.connect();
    for (const table of [
      'merchant_usage',
      'usage_daily_models',
      'usage_monthly',
      'usage_quarter_months',
      'usage_yearly',
    ])
      await client.query(`delete from ${table} where merchant_id = $1`, [merchantId]);
    await client.end();
    expect(await own.admin.reconcile.check.query(scope)).toMatchObject({ balanced: false });
    expect(await own.admin.reconcile.rebuild.mutate(scope)).toMatchObject({ merchants: 1, days: 1, closedDays: 1 });
    expect(await own.admin.reconcile.check.query(scope)).toMatchObject({ balanced: true });
    await own.close();
  });
});

describe('usage.void', () => {
  const reason = 'a test call';

  test('takes everything back that an event counted, once, and every stored form agrees', async () => {
    const merchantId = newMerchant();
    const wrong = entry(merchantId, 'wrong', {
      userId: 'eve',
      model: 'm',
      status: 'failure',
      count: 3,
      metrics: { prompt_tokens: '7', seats: '2' },
    });
    await record([entry(merchantId, 'kept', { userId: 'ada', metrics: { prompt_tokens: '5' } }), wrong]);
    const call = { merchantId, id: 'wrong', date: DAY, reason };
    const voided = await ingest.admin.usage.void.mutate(call);
    expect(voided).toMatchObject({
      metrics: { requests: '-3', failed_requests: '-3', prompt_tokens: '-7', seats: '-2' },
      dimensions: { userId: 'eve', model: 'm' },
      reason,
    });
    expect(await ingest.admin.usage.void.mutate(call)).toEqual(voided);
    const explain = (metricType: string) => ingest.admin.usage.explain.query({ merchantId, date: DAY, metricType });
    expect(await explain('prompt_tokens')).toMatchObject({ value: '5', adjustmentCount: 1 });
    expect(await explain('requests')).toMatchObject({ value: '1', entryCount: '2' });
    expect(await check(merchantId)).toMatchObject({ balanced: true, drift: [] });
    // The voided event is still in the journal, so a late copy of it is a repeat.
    expect(await record([wrong])).toMatchObject({ duplicates: 1 });
  });

  test('finds an event that was backfilled for a day before the retention, without its date', async () => {
    const merchantId = newMerchant();
    const date = '2026-05-01';
    await record([entry(merchantId, 'old', { time: `${date}T10:00:00Z` })], { backfill: true });
    expect(await ingest.admin.usage.void.mutate({ merchantId, id: 'old', reason })).toMatchObject({ date });
    await record([entry(merchantId, 'old')]);
    await expect(ingest.admin.usage.void.mutate({ merchantId, id: 'old', reason })).rejects.toMatchObject({
      data: { code: 'CONFLICT', details: { days: [date, DAY] } },
    });
  });

  test('refuses an unknown event, another reason, and an id that several days have', async () => {
    const merchantId = newMerchant();
    const earlier = '2026-11-21';
    await record([entry(merchantId, 'twice'), entry(merchantId, 'twice', { time: `${earlier}T10:00:00Z` })]);
    const voided = (more: object) => ingest.admin.usage.void.mutate({ merchantId, id: 'twice', reason, ...more });
    const refused = (code: string, details?: object) => ({ data: { code, ...(details && { details }) } });
    await expect(voided({ id: 'never' })).rejects.toMatchObject(refused('NOT_FOUND'));
    await expect(voided({})).rejects.toMatchObject(refused('CONFLICT', { days: [earlier, DAY] }));
    await voided({ date: DAY });
    await expect(voided({ date: DAY, reason: 'another' })).rejects.toMatchObject(refused('CONFLICT'));
  });
});
