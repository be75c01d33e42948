import { addDays, dayOf, eachDay, formatCost, type GroupBy, parseQuantity } from '@tally/contracts';
import type { AnalyticsClient } from '@tally/contracts/client';
import { runsOf } from '@tally/testkit';
import fc from 'fast-check';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Running, startAnalytics } from '../test/start.ts';

type Document = Parameters<AnalyticsClient['days']['import']['mutate']>[0]['documents'][number];

const RUNS = runsOf({ short: 15, long: 40 });
let running: Running;
let sql: pg.Client;

beforeAll(async () => {
  running = await startAnalytics();
  sql = new pg.Client({ connectionString: running.databaseUrl });
  await sql.connect();
});
afterAll(async () => {
  await sql.end();
  await running.stop();
});

const send = (documents: Document[], merchantId?: string) =>
  running.client.days.import.mutate({ documents, ...(merchantId && { merchantId }) });
const day = (date: string, more: object = {}) => ({ startDate: date, endDate: date, ...more });
const breakdown = (question: Parameters<AnalyticsClient['analytics']['breakdown']['query']>[0]) =>
  running.client.analytics.breakdown.query(question);
const row = (totalRequests: number, prompt: number, completion: number, cost: string) => ({
  totalRequests,
  tokens: { total: prompt + completion, prompt, completion },
  cost,
});

test('says how many documents it rejects, also beyond those that it lists', async () => {
  const dates = [...eachDay('2099-01-01', '2099-04-11')];
  const { rejected, rejectedCount } = await send(dates.map((date) => ({ date, aggregated_by_user: {} })));
  expect([dates.length, rejectedCount, rejected.length]).toEqual([101, 101, 100]);
});

describe('rows with all dimensions', () => {
  const date = '2024-05-01';
  const rows = [
    { ...row(3, 30, 10, '0.1'), failedRequests: 1, userId: 'ann', apiKey: 'k', model: 'm', provider: 'p' },
    { ...row(2, 20, 5, '1e-9'), userId: 'ann', apiKey: 'k', model: 'm', provider: 'p' },
    {
      totalRequests: '4',
      totalTokens: 12,
      promptTokens: 8,
      completionTokens: 4,
      totalCost: 0.00000000149,
      userId: null,
    },
    { totalRequests: 1, failedRequests: 1, promptTokens: 5, completionTokens: 0, cost: 0, merchantId: 'other' },
  ];

  test('of one day may come in several calls, and a call of too many is refused', async () => {
    const date = '2024-04-01';
    const many = Array.from({ length: 12 }, (_, index) => ({ ...row(1, 2, 3, '0.5'), userId: `user-${index}` }));
    for (const part of [many.slice(0, 5), many.slice(5)])
      expect(await send([{ date, raw_data: part }], 'parts')).toMatchObject({ counted: { accepted: part.length } });
    const { totals, total } = await breakdown({ ...day(date), by: 'user', merchantIds: ['parts'] });
    expect({ total, ...totals }).toMatchObject({ total: 12, requests: '12', cost: '6' });
    const tooMany = Array.from({ length: 10_001 }, () => many[0]!);
    await expect(send([{ date, raw_data: tooMany }], 'parts')).rejects.toMatchObject({
      data: { code: 'INVALID_INPUT', httpStatus: 400 },
    });
  });

  test('become entries that any question can ask for, and are added once however often they are sent', async () => {
    expect(await send([{ date, raw_data: rows }], 'old')).toEqual({
      counted: { days: 1, accepted: 4, duplicates: 0 },
      kept: { days: 0 },
      rejected: [],
      rejectedCount: 0,
    });
    expect(await send([{ date, raw_data: rows }], 'old')).toMatchObject({ counted: { accepted: 0, duplicates: 4 } });
    const { rows: users, coverage } = await breakdown({ ...day(date), by: 'user', merchantIds: ['old'] });
    expect(coverage.complete).toBe(true);
    expect(users).toMatchObject([
      {
        key: 'ann',
        requests: '5',
        failedRequests: '1',
        promptTokens: '50',
        completionTokens: '15',
        cost: '0.100000001',
      },
      { key: 'unknown', requests: '4', totalTokens: '12', cost: '0.000000001' },
    ]);
    expect((await breakdown({ ...day(date), by: 'merchant' })).rows.map(({ key }) => key)).toEqual(['old', 'other']);
    expect(await running.client.days.get.query({ date })).toMatchObject({ status: 'complete', imported: false });
  });

  test('are a source with its counts and rejections', async () => {
    const stateOf = async () => {
      const { sources } = await running.ingest.sources.status.query();
      return sources.find(({ source }) => source === 'day_snapshots') ?? { accepted: 0, duplicates: 0, rejected: 0 };
    };
    const before = await stateOf();
    const [good, bad] = [row(1, 1, 1, '1'), { ...row(1, 1, 1, '2000000'), userId: 'ann' }];
    const { counted, rejected } = await send([{ date: '2024-05-04', raw_data: [good, bad] }], 'old');
    expect({ counted, rejected }).toMatchObject({
      counted: { days: 1, accepted: 1, duplicates: 0 },
      rejected: [{ date: '2024-05-04', row: 1, code: 'INVALID_ENTRY' }],
    });
    expect(await stateOf()).toMatchObject({
      accepted: before.accepted + 1,
      duplicates: before.duplicates,
      rejected: before.rejected + 1,
    });
  });

  test('take the place of the flat sums that the day had before', async () => {
    const date = '2024-05-02';
    await send([{ date, aggregated_by_user: { ann: row(9, 1, 1, '9') } }]);
    expect((await breakdown({ ...day(date), by: 'user' })).totals.requests).toBe('9');
    await send([{ date, raw_data: [{ ...row(2, 1, 1, '1'), userId: 'ann' }] }], 'old');
    expect(await breakdown({ ...day(date), by: 'user' })).toMatchObject({
      totals: { requests: '2' },
      coverage: { complete: true },
    });
  });

  test('are added the rest of after a crash half-way', async () => {
    const date = '2024-05-03';
    const many = Array.from({ length: 1500 }, (_, n) => ({ ...row(1, 1, 1, '0.5'), userId: `user-${n}` }));
    await send([{ date, raw_data: many.slice(0, 700) }], 'old');
    expect(await send([{ date, raw_data: many }], 'old')).toMatchObject({
      counted: { accepted: 800, duplicates: 700 },
    });
    expect((await breakdown({ ...day(date), by: 'merchant' })).totals).toMatchObject({ requests: '1500', cost: '750' });
  });
});

test('names the reason for each rejected day, and imports the other days', async () => {
  const today = dayOf(Date.now());
  const good = { date: '2024-04-01', aggregated_by_model: { m: row(1, 1, 1, '1') } };
  const { rejected, kept } = await send([
    good,
    { date: today, aggregated_by_model: { m: row(1, 1, 1, '1') } },
    { date: '2024-04-02' },
    {
      date: '2024-04-03',
      aggregated_by_user: { u: { totalRequests: 1, tokens: { total: 5, prompt: 1, completion: 1 } } },
    },
    { date: '2024-04-04', raw_data: [row(1, 1, 1, '1')] },
    { date: '2024-04-05', raw_data: [{ ...row(1, 1, 1, '2000000'), merchantId: 'old' }] },
    { date: '2024-04-06', raw_data: [{ totalRequests: 1, totalTokens: 2, merchantId: 'old' }] },
    { date: '2024-04-07', cache_status: 'partial', raw_data: [{ ...row(1, 1, 1, '1'), merchantId: 'old' }] },
    { date: '2024-04-08', aggregated_by_user: { u: { totalRequests: '1.5', totalTokens: 0 } } },
  ]);
  expect(kept.days).toBe(1);
  expect(rejected.map(({ date, code }) => `${date} ${code}`)).toEqual([
    `${today} INVALID_INPUT`,
    ...['2024-04-02', '2024-04-03', '2024-04-04', '2024-04-06', '2024-04-07', '2024-04-08'].map(
      (date) => `${date} INVALID_INPUT`,
    ),
    '2024-04-05 INVALID_ENTRY',
  ]);
  await expect(send([good, good])).rejects.toMatchObject({ data: { code: 'INVALID_INPUT' } });
  const negative = { date: '2024-04-01', aggregated_by_user: { u: { totalRequests: -1 } } };
  await expect(send([negative])).rejects.toMatchObject({ data: { code: 'INVALID_INPUT' } });
  const named = (key: string) => ({ date: '2024-04-09', aggregated_by_model: { [key]: row(1, 1, 1, '1') } });
  const longest = [...Array(2)].map((_, part) => String.fromCharCode(0x4e00 + part).repeat(256)).join('|');
  expect((await send([named(longest)])).rejected).toEqual([]);
  await expect(send([named(`${longest}|m`)])).rejects.toMatchObject({ data: { code: 'INVALID_INPUT' } });
  const { key } = await running.ingest.keys.create.mutate({ name: 'bound', role: 'admin', merchantId: 'old' });
  await expect(running.clientOf(running.app, key).days.import.mutate({ documents: [good] })).rejects.toMatchObject({
    data: { code: 'MERCHANT_FORBIDDEN' },
  });
});

describe('a document with flat sums alone', () => {
  const date = '2024-06-10';
  beforeAll(async () => {
    await send([
      {
        date,
        aggregated_by_user: {
          ann: { totalRequests: 3, totalTokens: 30, cost: 0.5 },
          unknown: { totalRequests: 1, totalTokens: '900719925474099311', cost: '0.000000001' },
        },
        aggregated_by_model: { 'm|one': row(1, 9, 1, '0.25'), 'm|two': row(2, 18, 2, '0.25'), x: row(1, 1, 0, '0') },
      },
    ]);
  });

  test('answers its own groupings and the sums of its day, in every interval of days', async () => {
    const byUser = await breakdown({ ...day(date), by: 'user', sortBy: 'totalTokens', explain: true });
    expect(byUser).toMatchObject({
      rows: [
        { key: 'unknown', requests: '1', totalTokens: '900719925474099311', successRate: null, cost: '0.000000001' },
        { key: 'ann', requests: '3', totalTokens: '30', promptTokens: '0', cost: '0.5' },
      ],
      total: 2,
      coverage: { complete: true, unknown: ['failedRequests', 'promptTokens', 'completionTokens'] },
    });
    expect(byUser.plan).toContainEqual({ cube: 'daily_usage_cache', ...day(date) });
    expect((await breakdown({ ...day(date), by: 'model' })).rows).toMatchObject([
      { key: 'm', requests: '3', promptTokens: '27', details: { providers: ['one', 'two'] } },
      { key: 'x', requests: '1', details: { providers: ['unknown'] } },
    ]);
    const summary = await running.client.analytics.summary.query({ startDate: '2024-06-01', endDate: '2024-06-30' });
    expect(summary).toMatchObject({
      totals: { requests: '4', totalTokens: '31', promptTokens: '28', cost: '0.5' },
      activeUsers: 1,
      byDay: [{ date, requests: '4' }],
      topUsers: [{ key: 'ann' }],
      topModels: [{ key: 'm' }, { key: 'x' }],
      coverage: { complete: true },
    });
    for (const interval of ['day', 'week', 'month'] as const) {
      const { points, coverage } = await running.client.analytics.timeseries.query({
        ...day(date),
        interval,
        groupBy: 'model',
      });
      expect(points).toMatchObject([{ requests: '4', groups: [{ key: 'm' }, { key: 'x' }] }]);
      expect(coverage.complete).toBe(true);
    }
    const options = await running.client.analytics.filterOptions.query(day(date));
    expect(options).toMatchObject({
      users: [{ id: 'ann' }],
      models: [{ id: 'm', providers: ['one', 'two'] }, { id: 'x' }],
      coverage: { complete: false },
    });
    const file = await running.app.request(`/export/usage.csv?startDate=${date}&endDate=${date}&by=model`, {
      headers: { authorization: 'Bearer the-admin-key-of-the-tests' },
    });
    expect(file.headers.get('x-tally-complete')).toBe('true');
    expect((await file.text()).split('\n')[1]).toMatch(/^m,m,3,0,27,3,30,0.5/);
  });

  test.each([
    [{ by: 'provider' }, '0'],
    [{ by: 'apiKey' }, '0'],
    [{ by: 'merchant' }, '0'],
    [{ by: 'user', userIds: ['ann'] }, '0'],
    [{ by: 'model', models: ['m'] }, '0'],
    [{ by: 'model', merchantIds: ['acme'] }, '0'],
  ])('cannot answer %j, and the answer says that it is not complete', async (question, requests) => {
    expect(await breakdown({ ...day(date), ...question } as never)).toMatchObject({
      totals: { requests },
      coverage: { complete: false },
    });
  });

  test('cannot answer hours, other zones or the rows of its day', async () => {
    for (const more of [{ interval: 'hour' }, { interval: 'day', timeZone: 'Asia/Tokyo' }] as const) {
      const { coverage } = await running.client.analytics.timeseries.query({ ...day(date), ...more });
      expect(coverage.complete).toBe(false);
    }
    const usage = await running.client.analytics.merchantUsage.query({ ...day(date), merchantId: 'acme' });
    expect(usage.coverage.complete).toBe(false);
    const file = await running.app.request(`/export/usage.csv?startDate=${date}&endDate=${date}`, {
      headers: { authorization: 'Bearer the-admin-key-of-the-tests' },
    });
    expect(file.headers.get('x-tally-complete')).toBe('false');
  });

  test('is destroyed by no rebuild, and read as it came', async () => {
    const before = await running.client.days.get.query({ date });
    expect(before).toMatchObject({ imported: true, byUser: { ann: { totalTokens: '30', promptTokens: null } } });
    await running.client.days.rebuild.mutate({ startDate: '2024-06-01', endDate: '2024-06-30' });
    await running.client.days.rebuild.mutate({ onlyStale: true });
    expect(await running.client.days.get.query({ date })).toEqual(before);
  });

  test('is left out where its day has usage of its own, and the answer says so', async () => {
    const date = '2024-07-01';
    await send([{ date, aggregated_by_user: { ann: row(5, 1, 1, '5') } }]);
    const ask = () => breakdown({ startDate: '2024-06-25', endDate: '2024-07-05', by: 'user' });
    expect(await ask()).toMatchObject({ totals: { requests: '5' }, coverage: { complete: true } });
    await running.ingest.usage.record.mutate({
      entries: [{ id: 'own', merchantId: 'acme', time: `${date}T10:00:00Z`, metrics: {}, userId: 'ann' }],
      backfill: true,
    });
    expect(await ask()).toMatchObject({ totals: { requests: '1' }, coverage: { complete: false } });
    await running.client.days.rebuild.mutate(day(date));
    expect(await running.client.days.get.query({ date })).toMatchObject({ imported: true });
  });

  test('that someone wrote badly fails no question', async () => {
    await sql.query(
      `insert into daily_usage_cache (date, raw_data, aggregated_by_user, cache_status)
       values ('2023-01-01', '[]', $1, 'complete')`,
      [
        JSON.stringify({
          ann: { totalRequests: 'many', totalTokens: {}, cost: [1] },
          bob: 7,
          cy: { totalRequests: 2 },
        }),
      ],
    );
    const { rows } = await breakdown({ ...day('2023-01-01'), by: 'user', sortBy: 'requests' });
    expect(rows.map(({ key, requests }) => `${key} ${requests}`)).toEqual(['cy 2']);
  });
});

test('any days imported in any order, with entries of their own or not, answer as a plain model does', async () => {
  const FIRST = '2022-01-28';
  const dates = eachDay(FIRST, addDays(FIRST, 7));
  type Sums = { requests: number; tokens: number; nano: bigint };
  const flat = new Map<string, Map<GroupBy, Map<string, Sums>>>();
  const own = new Map<string, Map<string, Sums>>();
  let serial = 0;
  const amounts = fc.record({
    requests: fc.integer({ min: 1, max: 9 }),
    tokens: fc.integer({ min: 0, max: 9 }),
    nano: fc.bigInt({ min: 0n, max: 10n ** 12n }),
  });
  const grouping = (...keys: string[]) =>
    fc.option(fc.dictionary(fc.constantFrom(...keys), amounts, { minKeys: 1, noNullPrototype: true }), { nil: null });
  const step = fc.record({
    date: fc.constantFrom(...dates),
    user: grouping('ann', 'bob', 'unknown'),
    model: grouping('m', 'n', 'unknown'),
    provider: grouping('p', 'q'),
    shape: fc.integer({ min: 0, max: 2 }),
    entry: fc.option(amounts, { nil: undefined, freq: 1 }),
    rebuild: fc.boolean(),
    from: fc.integer({ min: 0, max: 7 }),
    length: fc.integer({ min: 0, max: 7 }),
    by: fc.constantFrom<GroupBy>('user', 'model', 'provider', 'merchant'),
  });
  const shaped = ({ requests, tokens, nano }: Sums, shape: number) =>
    shape === 0
      ? { totalRequests: requests, tokens: { total: tokens, prompt: tokens, completion: 0 }, cost: formatCost(nano) }
      : shape === 1
        ? { totalRequests: requests, totalTokens: tokens, cost: formatCost(nano) }
        : {
            totalRequests: requests,
            totalTokens: tokens,
            promptTokens: 0,
            completionTokens: tokens,
            totalCost: formatCost(nano),
          };
  const plus = (into: Map<string, Sums>, key: string, { requests, tokens, nano }: Sums) => {
    const old = into.get(key) ?? { requests: 0, tokens: 0, nano: 0n };
    into.set(key, { requests: old.requests + requests, tokens: old.tokens + tokens, nano: old.nano + nano });
  };

  await fc.assert(
    fc.asyncProperty(step, async ({ date, shape, entry, rebuild, from, length, by, ...groups }) => {
      const kept = Object.entries(groups).filter(([, value]) => value !== null) as [GroupBy, Record<string, Sums>][];
      if (kept.length > 0) {
        const grouped = Object.fromEntries(
          kept.map(([kind, keys]) => [
            `aggregated_by_${kind}`,
            Object.fromEntries(Object.entries(keys).map(([key, sums]) => [key, shaped(sums, shape)])),
          ]),
        );
        expect(await send([{ date, ...grouped }])).toMatchObject({ kept: { days: 1 }, rejected: [] });
        flat.set(date, new Map(kept.map(([kind, keys]) => [kind, new Map(Object.entries(keys))])));
      }
      if (entry && serial < 6) {
        const metrics = { prompt_tokens: `${entry.tokens}`, cost: formatCost(entry.nano) };
        const id = `own-${serial++}`;
        const sent = {
          id,
          merchantId: 'acme',
          time: `${date}T08:00:00Z`,
          count: entry.requests,
          metrics,
          userId: 'ann',
        };
        await running.ingest.usage.record.mutate({ entries: [{ ...sent, model: 'm', provider: 'p' }], backfill: true });
        const keys = { user: 'ann', model: 'm', provider: 'p', merchant: 'acme' };
        const day = own.get(date) ?? new Map<string, Sums>();
        for (const [kind, key] of Object.entries(keys)) plus(day, `${kind} ${key}`, entry);
        own.set(date, day);
      }
      if (rebuild)
        await running.client.days.rebuild.mutate({ startDate: dates[0]!, endDate: dates.at(-1)!, onlyStale: true });

      const range = { startDate: dates[Math.min(from, length)]!, endDate: dates[Math.max(from, length)]! };
      const wanted = new Map<string, Sums>();
      let complete = true;
      for (const each of eachDay(range.startDate, range.endDate)) {
        const [entries, document] = [own.get(each), flat.get(each)];
        for (const [name, sums] of entries ?? [])
          if (name.startsWith(`${by} `)) plus(wanted, name.slice(by.length + 1), sums);
        const usable = document && !entries ? document.get(by) : undefined;
        for (const [key, sums] of usable ?? []) plus(wanted, key, sums);
        if (document && !usable) complete = false;
      }
      const answer = await breakdown({ ...range, by, limit: 200 });
      const found = answer.rows.map(({ key, requests, totalTokens, cost }) => [
        key,
        { requests: Number(requests), tokens: Number(totalTokens), nano: parseQuantity('cost', cost) },
      ]);
      expect(Object.fromEntries(found)).toEqual(Object.fromEntries(wanted));
      expect(answer.coverage.complete).toBe(complete);
    }),
    { numRuns: RUNS },
  );
});
