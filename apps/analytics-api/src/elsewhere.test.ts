import { addDays, dayOf, isDay, type UsageEntry } from '@tally/contracts';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { KEY, type Running, startAnalytics } from '../test/start.ts';
import { suggestRanges } from './dates.ts';

/**
 * Known faults of another analytics service with the same contract, one test each: its day of one model and three keys.
 */
let running: Running;
const DAY = '2025-01-15';
const TODAY = dayOf(Date.now());
const day = (date: string, more: object = {}) => ({ startDate: date, endDate: date, ...more });

type Dimensions = Pick<UsageEntry, 'merchantId' | 'userId' | 'apiKey' | 'model' | 'provider'>;
let serial = 0;
const record = async (date: string, entries: (Dimensions & Partial<UsageEntry>)[]) => {
  const sent = entries.map((entry) => ({ id: `e-${serial++}`, time: `${date}T23:59:59Z`, metrics: {}, ...entry }));
  for (let from = 0; from < sent.length; from += 1000) {
    const batch = sent.slice(from, from + 1000);
    const { rejected } = await running.ingest.usage.record.mutate({ entries: batch, backfill: true });
    expect(rejected).toEqual([]);
  }
};
const tokens = (prompt: number, completion: number, cost = '0') => ({
  prompt_tokens: `${prompt}`,
  completion_tokens: `${completion}`,
  cost,
});

beforeAll(async () => {
  running = await startAnalytics();
  const common = { merchantId: 'acme', model: 'openai/gpt-4', provider: 'openai' };
  const mapped = { ...common, userId: 'user-1', apiKey: 'mapped' };
  await record(DAY, [
    { ...mapped, count: 9, metrics: tokens(800, 400, '0.3') },
    { ...mapped, count: 1, status: 'failure' },
    { ...common, apiKey: 'unmapped', count: 5, metrics: tokens(400, 200, '0.1') },
    { ...common, count: 3, status: 'failure' },
  ]);
});
afterAll(() => running.stop());

const breakdown = (question: Parameters<Running['client']['analytics']['breakdown']['query']>[0]) =>
  running.client.analytics.breakdown.query(question);
const summary = (question: Parameters<Running['client']['analytics']['summary']['query']>[0]) =>
  running.client.analytics.summary.query(question);
const requests = async (question: Parameters<typeof breakdown>[0]) =>
  Object.fromEntries((await breakdown(question)).rows.map((row) => [row.key, row.requests]));

test('1: providers have their sums', async () => {
  expect((await breakdown({ ...day(DAY), by: 'provider' })).rows).toMatchObject([
    { key: 'openai', requests: '18', totalTokens: '1800', cost: '0.4' },
  ]);
});

test('2: tokens of a model count once, in its row, the totals, the days and the trends', async () => {
  const once = { promptTokens: '1200', completionTokens: '600', totalTokens: '1800' };
  expect((await breakdown({ ...day(DAY), by: 'model' })).rows).toMatchObject([once]);
  const { totals, byDay, trends } = await summary(day(DAY));
  expect([totals, byDay[0]]).toMatchObject([once, once]);
  expect([trends.promptTokens.current, trends.totalTokens.current]).toEqual(['1200', '1800']);
});

test('3: what succeeded is counted of every key, also of those that nobody knows', async () => {
  const { totals, byDay } = await summary(day(DAY));
  const told = { requests: '18', failedRequests: '4', successRate: 77.78 };
  expect([totals, byDay[0]]).toMatchObject([told, told]);
  expect((await breakdown({ ...day(DAY), by: 'model' })).rows).toMatchObject([told]);
  expect((await summary(day(DAY, { apiKeys: ['mapped', 'unmapped'] }) as never)).totals.successRate).toBe(93.33);
});

test('4: a filter by provider holds in every answer', async () => {
  for (const [provider, wanted] of [
    ['openai', '18'],
    ['anthropic', '0'],
  ] as const) {
    const filters = { ...day(DAY), providers: [provider] };
    const { totals, byDay, topModels } = await summary(filters);
    expect(totals.requests).toBe(wanted);
    expect(byDay.length + topModels.length).toBe(wanted === '0' ? 0 : 2);
    for (const by of ['user', 'model', 'provider', 'apiKey', 'merchant'] as const)
      expect((await breakdown({ ...filters, by })).totals.requests).toBe(wanted);
  }
});

test('5: a filter by key filters totals, days, every breakdown and the export alike', async () => {
  const filters = { ...day(DAY), apiKeys: ['mapped'] };
  const { totals, byDay } = await summary(filters);
  expect([totals.requests, byDay[0]?.requests]).toEqual(['10', '10']);
  for (const by of ['user', 'model', 'provider'] as const)
    expect((await breakdown({ ...filters, by })).totals.requests).toBe('10');
  const path = `/export/usage.ndjson?startDate=${DAY}&endDate=${DAY}&by=user&apiKeys=mapped`;
  const file = await running.app.request(path, { headers: { authorization: `Bearer ${KEY}` } });
  expect(JSON.parse(await file.text())).toMatchObject({ key: 'user-1', requests: '10' });
});

test('6: a key that nobody knows can be asked for', async () => {
  expect((await summary({ ...day(DAY), apiKeys: ['unmapped'] })).totals.requests).toBe('5');
  expect(await requests({ ...day(DAY), by: 'apiKey' })).toEqual({ mapped: '10', unmapped: '5', unknown: '3' });
});

test('7: days can be rebuilt, and rates are computed where they stand', async () => {
  expect(await running.client.days.rebuild.mutate(day(DAY))).toMatchObject({ rebuilt: 1, complete: true });
  for (const by of ['user', 'model', 'provider', 'apiKey'] as const) {
    const { rows } = await breakdown({ ...day(DAY), by });
    for (const row of rows) {
      const rate = 1 - Number(row.failedRequests) / Number(row.requests);
      expect(row.successRate).toBeCloseTo(rate * 100, 2);
    }
  }
});

test('8: a day of more than a thousand rows is counted whole', async () => {
  const date = '2025-01-20';
  const users = Array.from({ length: 1500 }, (_, n) => ({
    merchantId: 'big',
    userId: `u-${n}`,
    metrics: tokens(2, 1),
  }));
  await record(date, users);
  expect(await breakdown({ ...day(date), by: 'user' })).toMatchObject({
    total: 1500,
    totals: { requests: '1500', totalTokens: '4500' },
  });
  expect((await summary(day(date))).activeUsers).toBe(1500);
});

test('9: a question that is wrong is a 400 with its code, on every way', async () => {
  const question = { ...day(DAY), by: 'user', sortBy: 'bad' } as never;
  await expect(breakdown(question)).rejects.toMatchObject({ data: { code: 'INVALID_INPUT', httpStatus: 400 } });
  const response = await running.app.request('/api/v1/admin/usage/by-user', {
    method: 'POST',
    headers: { authorization: `Bearer ${KEY}`, 'content-type': 'application/json' },
    body: JSON.stringify({ ...day(DAY), sortBy: 'bad' }),
  });
  expect([response.status, await response.json()]).toMatchObject([400, { error: { data: { code: 'INVALID_INPUT' } } }]);
});

test('10: days are days of UTC wherever the service runs, and no day of a split range is left out', async () => {
  const zone = process.env.TZ;
  try {
    for (const place of ['America/New_York', 'Asia/Tokyo', 'Pacific/Apia']) {
      process.env.TZ = place;
      expect(dayOf(Date.parse('2025-01-15T03:14:00Z'))).toBe('2025-01-15');
      expect(suggestRanges('2025-01-01', '2025-04-01', 90)).toEqual([
        { startDate: '2025-01-01', endDate: '2025-03-31' },
        { startDate: '2025-04-01', endDate: '2025-04-01' },
      ]);
      expect((await summary(day(DAY))).byDay).toMatchObject([{ date: DAY, requests: '18' }]);
      expect((await summary(day(addDays(DAY, 1)))).byDay).toEqual([]);
      expect((await running.client.days.get.query({ date: DAY })).date).toBe(DAY);
    }
  } finally {
    if (zone === undefined) delete process.env.TZ;
    else process.env.TZ = zone;
  }
});

test('11: a closed day that was read takes late entries and corrections, and no day is complete before it is over', async () => {
  const yesterday = addDays(TODAY, -1);
  await record(yesterday, [{ merchantId: 'late', model: 'm' }]);
  const ask = async () => [
    (await summary({ ...day(yesterday), merchantIds: ['late'] })).totals.requests,
    (await running.client.days.get.query({ date: yesterday })).byModel.m?.requests,
  ];
  expect([await ask(), await ask()]).toEqual([
    ['1', '1'],
    ['1', '1'],
  ]);
  await record(yesterday, [{ merchantId: 'late', model: 'm', count: 4 }]);
  expect(await ask()).toEqual(['5', '5']);
  const correction = { id: 'c', merchantId: 'late', date: yesterday, metrics: { requests: '-2' } };
  await running.ingest.usage.adjust.mutate({ ...correction, dimensions: { model: 'm' }, reason: 'a test' });
  expect(await ask()).toEqual(['3', '3']);
  for (const date of [TODAY, addDays(TODAY, 1)])
    expect((await running.client.days.get.query({ date })).status).toBe('partial');
});

test('12: two keys of one name stay two, and a new name is shown at once', async () => {
  const date = '2025-01-22';
  const common = { merchantId: 'acme', userId: 'user-1', model: 'm' };
  await record(date, [
    { ...common, apiKey: 'one', count: 2 },
    { ...common, apiKey: 'two', count: 3 },
  ]);
  const rename = (name: string) =>
    running.client.directory.upsert.mutate({ entries: ['one', 'two'].map((id) => ({ kind: 'apiKey', id, name })) });
  for (const name of ['same', 'renamed']) {
    await rename(name);
    const { rows } = await breakdown({ ...day(date), by: 'apiKey', sortBy: 'requests' });
    expect(rows.map(({ key, label, requests }) => [key, label, requests])).toEqual([
      ['two', name, '3'],
      ['one', name, '2'],
    ]);
  }
});

test('13: money is exact to the nano-dollar however much is added', async () => {
  const date = '2025-01-23';
  const costs = ['0.1', '0.2', '0.000000001', '999999.999999999', ...Array.from({ length: 996 }, () => '0.1')];
  await record(
    date,
    costs.map((cost) => ({ merchantId: 'money', userId: 'u', metrics: { cost } })),
  );
  expect((await summary(day(date))).totals.cost).toBe('1000099.9');
  expect((await breakdown({ ...day(date), by: 'user' })).rows[0]?.cost).toBe('1000099.9');
});

test('14: an export runs in no spreadsheet and keeps its lines, whatever people are called', async () => {
  const date = '2025-01-24';
  const names = ['=1+1', '+1', '-1', '@SUM(A1)', 'doe, john', 'john "the dev" doe', 'two\r\nlines', 'a\rb'];
  await record(
    date,
    names.map((_, n) => ({ merchantId: 'names', userId: `n-${n}` })),
  );
  const known = names.map((name, n) => ({ kind: 'user' as const, id: `n-${n}`, name }));
  const isLabel = ({ name }: { name: string }) => !/[\r\n]/.test(name);
  await running.client.directory.upsert.mutate({ entries: known.filter(isLabel) });
  // Stored before names of several lines were rejected.
  const sql = new pg.Client({ connectionString: running.databaseUrl });
  await sql.connect();
  for (const { id, name } of known.filter((each) => !isLabel(each)))
    await sql.query(`insert into directory_entries (kind, id, merchant_id, name) values ('user', $1, '', $2)`, [
      id,
      name,
    ]);
  await sql.end();
  const path = `/export/usage.csv?startDate=${date}&endDate=${date}&by=user`;
  const file = await running.app.request(path, { headers: { authorization: `Bearer ${KEY}` } });
  const text = await file.text();
  const cells = [
    `'=1+1`,
    `'+1`,
    `'-1`,
    `'@SUM(A1)`,
    '"doe, john"',
    '"john ""the dev"" doe"',
    '"two\r\nlines"',
    '"a\rb"',
  ];
  for (const [n, cell] of cells.entries()) expect(text).toContain(`n-${n},${cell},,,1,0,`);
});

test('15: what only an admin may do, a reader may not', async () => {
  for (const role of ['viewer', 'analyst'] as const) {
    const { key } = await running.ingest.keys.create.mutate({ name: role, role });
    const reader = running.clientOf(running.app, key);
    expect((await reader.analytics.summary.query(day(DAY))).totals.requests).toBe('18');
    const forbidden = [
      () => reader.days.rebuild.mutate(day(DAY)),
      () => reader.days.import.mutate({ documents: [{ date: DAY, aggregated_by_user: {} }] }),
      () => reader.cache.clear.mutate({}),
      () => reader.cache.warm.mutate(day(DAY)),
      () => reader.cache.invalidate.mutate({ ...day(DAY), merchantIds: ['acme'] }),
      () => reader.directory.remove.mutate({ kind: 'user', ids: ['user-1'] }),
    ];
    for (const call of forbidden) await expect(call()).rejects.toMatchObject({ data: { code: 'FORBIDDEN' } });
  }
});

test('16: tokens of a user are those it used, not a share of the model’s', async () => {
  const date = '2025-01-26';
  const common = { merchantId: 'share', model: 'm' };
  await record(date, [
    { ...common, userId: 'reader', metrics: tokens(99, 0) },
    { ...common, userId: 'writer', metrics: tokens(1, 100) },
  ]);
  const split = async () =>
    (await breakdown({ ...day(date), by: 'user', sortBy: 'key', order: 'asc' })).rows.map(
      ({ key, promptTokens, completionTokens }) => `${key} ${promptTokens} ${completionTokens}`,
    );
  expect(await split()).toEqual(['reader 99 0', 'writer 1 100']);
  const correction = { id: 'c', merchantId: 'share', date, metrics: { completion_tokens: '-50' } };
  await running.ingest.usage.adjust.mutate({ ...correction, dimensions: { userId: 'writer' }, reason: 'a test' });
  expect(await split()).toEqual(['reader 99 0', 'writer 1 50']);
});

test('two days alike are twice one of them', async () => {
  const dates = ['2025-02-15', '2025-02-16'];
  for (const date of dates)
    await record(date, [
      { merchantId: 'twice', userId: 'user-1', model: 'gpt-4', count: 110, metrics: tokens(3300, 2200, '1.375') },
      { merchantId: 'twice', userId: 'user-2', model: 'gpt-4', count: 40, metrics: tokens(1200, 800, '0.5') },
    ]);
  const { totals, byDay } = await summary({ startDate: dates[0]!, endDate: dates[1]!, merchantIds: ['twice'] });
  expect(totals).toMatchObject({ requests: '300', totalTokens: '15000', cost: '3.75' });
  expect(byDay).toMatchObject([{ requests: '150' }, { requests: '150' }]);
});

test.each([
  '2025/01/01',
  '01-01-2025',
  '2025-1-1',
  '2025-02-30',
  '2025-13-01',
  'invalid',
  '20250101',
  '2025-01-01T10:00',
])('%s is no day', async (text) => {
  expect(isDay(text)).toBe(false);
  await expect(summary(day(text))).rejects.toMatchObject({ data: { code: 'INVALID_DATE_FORMAT' } });
});
