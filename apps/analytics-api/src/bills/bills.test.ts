import { startOfDay, type UsageEntry } from '@tally/contracts';
import type { AnalyticsClient } from '@tally/contracts/client';
import { until } from '@tally/testkit';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Running, startAnalytics } from '../../test/start.ts';

type Sent = Parameters<AnalyticsClient['bills']['import']['mutate']>[0];
type Asked = Parameters<AnalyticsClient['bills']['compare']['query']>[0];

const DAY = '2026-11-20';
const NEXT = '2026-11-21';
let running: Running;
let client: AnalyticsClient;

beforeAll(async () => {
  running = await startAnalytics();
  ({ client } = await running.another({}, () => Date.parse('2026-11-22T12:00:00Z')));
});
afterAll(() => running.stop());

const bucketOf = (date: string, lines: [item: string, amount: number, quantity: number][]) => ({
  ...{ object: 'bucket', start_time: startOfDay(date) / 1000, end_time: startOfDay(date) / 1000 + 86_400 },
  results: lines.map(([line_item, value, quantity]) => ({
    ...{ object: 'organization.costs.result', amount: { value, currency: 'usd' } },
    ...{ line_item, quantity, project_id: null },
  })),
});
const costs = (...data: unknown[]) => JSON.stringify({ object: 'page', data, has_more: false, next_page: null });
const send = (more: Partial<Sent> & Pick<Sent, 'file'>) =>
  client.bills.import.mutate({ provider: 'openai', dryRun: false, ...more });
const compare = (more: Partial<Asked> = {}) =>
  client.bills.compare.query({ provider: 'openai', startDate: DAY, endDate: NEXT, ...more });

test('compares a bill with what Tally metered and priced, by day, model and class', async () => {
  for (const [component, amount] of [
    ['input', '2.5'],
    ['cached_input', '1.25'],
    ['output', '10'],
  ] as const)
    await running.ingest.prices.set.mutate({
      ...{ provider: 'openai', model: 'gpt-4o*', component, amount, per: 1_000_000 },
      validFrom: '2026-01-01T00:00:00Z',
    });
  const entry = (id: string, more: Partial<UsageEntry> = {}): UsageEntry => ({
    ...{ id, merchantId: 'acme', time: `${DAY}T10:00:00Z`, provider: 'openai', model: 'gpt-4o' },
    metrics: { prompt_tokens: '1000', cached_tokens: '400', completion_tokens: '100', reasoning_tokens: '60' },
    ...more,
  });
  await running.ingest.usage.record.mutate({
    entries: [
      entry('a'),
      entry('b', { merchantId: 'other' }),
      entry('unpriced', { model: 'o1', metrics: { prompt_tokens: '10', completion_tokens: '1' } }),
      entry('brought', { model: 'o3', metrics: { prompt_tokens: '10', completion_tokens: '1', cost: '0.5' } }),
      entry('elsewhere', { provider: 'azure' }),
    ],
  });
  const file = costs(
    bucketOf(DAY, [
      ['gpt-4o-2024-08-06, input', 0.003, 1200],
      ['gpt-4o-2024-08-06, cached input', 0.002, 800],
      ['gpt-4o-2024-08-06, output', 0.003, 300],
      ['o1-2024-12-17, input', 0.1, 10],
      ['o3, input', 0.3, 11],
      ['web search tool calls', 0.01, 1],
    ]),
    bucketOf(NEXT, []),
  );
  expect(await send({ file })).toMatchObject({
    ...{ status: 'imported', rejected: [], replaces: [], unfinished: [] },
    bill: { kind: 'cost', startDate: DAY, endDate: NEXT, lines: 6, amount: '0.418', tokens: '2321', daysInForce: 2 },
  });
  const { rows, ...answer } = await compare({ startDate: '2026-11-19' });
  expect(rows.map((row) => [row.model, row.class, row.reason])).toEqual([
    ['gpt-4o', 'input', 'equal'],
    ['gpt-4o', 'cached_input', 'price'],
    ['gpt-4o', 'output', 'quantity'],
    ['o1', 'input', 'unpriced'],
    ['o1', 'output', 'unpriced'],
    ['o3', 'all', 'price'],
    ['web search tool calls', 'other', 'only_on_bill'],
  ]);
  expect(rows[1]).toMatchObject({
    ...{ date: DAY, billModels: ['gpt-4o-2024-08-06'], ourModels: ['gpt-4o'] },
    bill: { quantity: '800', amount: '0.002', unitPrice: '2.5' },
    ours: { quantity: '800', amount: '0.001', unitPrice: '1.25' },
    difference: { quantity: '0', amount: '0.001', byQuantity: '0', byPrice: '0.001' },
  });
  expect(rows[3]).toMatchObject({ ours: { quantity: '10', amount: null }, difference: { amount: null } });
  expect(answer).toMatchObject({
    totals: { rows: 7, bill: '0.418', ours: '0.506', difference: '-0.088', unknownOnBill: 0, unknownWithUs: 2 },
    days: { compared: 2, withCosts: 2, withUsage: 0 },
    ...{ withoutBill: ['2026-11-19'], total: 7, nextCursor: null, complete: true },
  });
  const { cost } = (
    await client.analytics.breakdown.query({ startDate: DAY, endDate: NEXT, by: 'provider', providers: ['openai'] })
  ).totals;
  expect(answer.totals.ours).toBe(cost);
});

test('filters, sorts and pages the rows; sums are over all that remain', async () => {
  const first = await compare({ sortBy: 'difference', limit: 1 });
  expect(first.rows.map(({ model }) => model)).toEqual(['o3']);
  const second = await compare({ sortBy: 'difference', limit: 1, cursor: first.nextCursor! });
  expect(second).toMatchObject({ rows: [{ model: 'o1', class: 'input' }], totals: first.totals, total: 7 });
  expect(await compare({ models: ['gpt-4o-2024-08-06'], classes: ['cached_input'] })).toMatchObject({
    ...{ total: 1, rows: [{ reason: 'price' }], totals: { bill: '0.002', ours: '0.001' } },
    byReason: [{ reason: 'price', rows: 1, difference: '0.001' }],
  });
  // Only one of the two merchants.
  expect((await compare({ merchantIds: ['acme'], classes: ['input'], models: ['gpt-4o'] })).rows).toMatchObject([
    { bill: { quantity: '1200' }, ours: { quantity: '600' }, reason: 'quantity' },
  ]);
  expect((await compare({ ourProviders: ['azure'], models: ['gpt-4o'] })).rows).toMatchObject([
    // Azure's calls have no price here.
    ...[{ ours: { quantity: '600', amount: null } }, { ours: { quantity: '400' } }, { ours: { quantity: '100' } }],
  ]);
  await expect(compare({ cursor: first.nextCursor! })).rejects.toMatchObject({ data: { code: 'INVALID_CURSOR' } });
  await expect(compare({ startDate: '2026-01-01' })).rejects.toMatchObject({
    data: { code: 'DATE_RANGE_TOO_LARGE' },
  });
});

test('counts a file once, replaces the days of a corrected one, and brings them back when it is removed', async () => {
  const [account, provider] = ['corrections', 'anthropic'] as const;
  const report = (date: string, amount: string) => ({
    ...{ starting_at: `${date}T00:00:00Z`, ending_at: `${date}T23:59:59Z` },
    results: [{ currency: 'USD', amount, model: 'claude-opus-5', token_type: 'output_tokens', cost_type: 'tokens' }],
  });
  const of = (...data: unknown[]) => ({ provider, account, file: JSON.stringify({ data, has_more: false }) });
  const first = of(report(DAY, '100'), report(NEXT, '200'));
  const billed = async () =>
    (await compare({ provider, account })).rows.map(({ date, bill }) => `${date} ${bill.amount}`);

  expect(await send({ ...first, dryRun: true })).toMatchObject({ dryRun: true, status: 'read', bill: { id: null } });
  expect(await billed()).toEqual([]);
  const { bill } = await send(first);
  expect(await send(first)).toMatchObject({ status: 'unchanged', bill: { id: bill.id }, replaces: [] });
  expect(await billed()).toEqual([`${DAY} 1`, `${NEXT} 2`]);

  const corrected = await send(of(report(NEXT, '250')));
  expect(corrected).toMatchObject({ status: 'imported', replaces: [{ id: bill.id, days: 1 }] });
  expect(await billed()).toEqual([`${DAY} 1`, `${NEXT} 2.5`]);
  const { rows } = await client.bills.list.query({ provider, limit: 2 });
  expect(rows.map(({ id, daysInForce }) => [id, daysInForce])).toEqual([
    [corrected.bill.id, 1],
    [bill.id, 1],
  ]);
  // The first file has not all of its days any more, so it is a correction itself.
  expect(await send({ ...first, dryRun: true })).toMatchObject({
    ...{
      status: 'read',
      replaces: [
        { id: bill.id, days: 1 },
        { id: corrected.bill.id, days: 1 },
      ],
    },
  });
  await client.bills.remove.mutate({ id: corrected.bill.id! });
  expect(await billed()).toEqual([`${DAY} 1`, `${NEXT} 2`]);
  await expect(client.bills.remove.mutate({ id: corrected.bill.id! })).rejects.toMatchObject({
    data: { code: 'NOT_FOUND' },
  });
});

test('stores one bill where the same file is sent twice at once', async () => {
  const file = costs(bucketOf(DAY, [['gpt-4o, input', 1, 1]]));
  const sent = await Promise.all([1, 2, 3].map(() => send({ account: 'at once', file })));
  expect(sent.map(({ status }) => status).sort()).toEqual(['imported', 'unchanged', 'unchanged']);
  expect(new Set(sent.map(({ bill }) => bill.id)).size).toBe(1);
});

test('names days that the export leaves out, and repeated lines; tokens are unknown where it has none', async () => {
  const of = (file: string) => send({ provider: 'anthropic', account: 'gaps', file, dryRun: true });
  const rows = ['2026-11-18,claude,1', `${DAY},claude,2`, `${DAY},claude,2`];
  expect(await of(['usage_date_utc,model,cost_usd', ...rows].join('\n'))).toMatchObject({
    ...{ status: 'read', missing: ['2026-11-19'], repeated: ['line 4'], repeatedLines: 1 },
    bill: { lines: 3, amount: '5', tokens: null },
  });
});

test('adds up accounts, and takes a day as unknown that one of them has no bill of', async () => {
  const provider = 'anthropic';
  const usage = (account: string, ...dates: string[]) => {
    const row = (date: string) => `${date},claude-sonnet-5,10,5`;
    const header = 'usage_date_utc,model_version,usage_input_tokens_no_cache,usage_output_tokens';
    return send({ provider, account, file: [header, ...dates.map(row)].join('\n') });
  };
  await usage('one', DAY, NEXT);
  await usage('two', DAY);
  const { rows, days } = await compare({ provider, models: ['claude-sonnet-5'], classes: ['input'] });
  expect(rows).toMatchObject([{ date: DAY, bill: { quantity: '20' } }]);
  expect(days.withUsage).toBe(1);
});

test('compares a bill that is removed meanwhile wholly or not at all', async () => {
  const [account, other] = ['removed', new pg.Client({ connectionString: running.databaseUrl })];
  const { bill } = await send({ account, file: costs(bucketOf(DAY, [['gpt-4o, input', 1, 1]])) });
  await other.connect();
  await other.query('begin');
  await other.query('lock table bill_lines');
  await other.query('delete from bills where id = $1', [bill.id]);
  const compared = compare({ account, models: ['gpt-4o'], classes: ['input'] });
  const waiting = `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`;
  await until('the comparison waits for the lines', async () => (await other.query(waiting)).rows.length > 0);
  await other.query('commit');
  await other.end();
  expect(await compared).toMatchObject({ bills: [bill.id], totals: { bill: '1' } });
  expect((await compare({ account })).bills).toEqual([]);
});

test('stores nothing of an export with an unreadable line, and leaves out days that are not over', async () => {
  const account = 'strict';
  const bad = costs(bucketOf(DAY, [['gpt-4o, input', 1, 1]]), { ...bucketOf(NEXT, []), results: [{ amount: 5 }] });
  expect(await send({ account, file: bad })).toMatchObject({
    ...{ status: 'rejected', rejectedLines: 1, bill: { id: null } },
    rejected: [{ place: 'data[1].results[0]' }],
  });
  expect((await compare({ account })).bills).toEqual([]);
  const file = costs(bucketOf(NEXT, [['gpt-4o, input', 1, 1]]), bucketOf('2026-11-22', [['gpt-4o, input', 9, 1]]));
  expect(await send({ account, file })).toMatchObject({
    ...{ status: 'imported', unfinished: ['2026-11-22'], bill: { endDate: NEXT, amount: '1', lines: 1 } },
  });
  await expect(send({ account, file: costs(bucketOf('2026-11-22', [['gpt-4o, input', 9, 1]])) })).rejects.toMatchObject(
    {
      data: { code: 'INVALID_INPUT' },
      message: expect.stringContaining('not over yet'),
    },
  );
  await expect(send({ account, file, startDate: DAY, endDate: DAY })).rejects.toMatchObject({
    data: { code: 'INVALID_INPUT' },
  });
});
