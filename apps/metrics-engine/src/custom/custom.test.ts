import { addDays, type Day, formatCost, startOfDay } from '@tally/contracts';
import type { EngineClient } from '@tally/contracts/client';
import type { Db, JournalLine } from '@tally/db';
import { redisReady } from '@tally/service';
import fc from 'fast-check';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Engine, prepareStores, type Stores } from '../../test/start.ts';

const RANGE = { startDate: '2026-03-01', endDate: '2026-03-10' };

let stores: Stores;
let db: Db;
let client: pg.Client;
let engine: EngineClient;
let as: Engine['as'];

beforeAll(async () => {
  stores = await prepareStores();
  ({ db, client } = stores);
  ({ engine, as } = await stores.start());
  await seed();
  await engine.rollups.daily.backfill.mutate(RANGE);
});

afterAll(() => stores.close());

async function seed(): Promise<void> {
  const lines = Array.from({ length: 400 }, (_, i): JournalLine => {
    const date: Day = addDays('2026-03-01', i % 10);
    const failed = i % 7 === 0;
    return {
      merchant_id: i % 3 === 0 ? 'b' : 'a',
      date,
      id: `e${i}`,
      time: startOfDay(date) + i * 60_000,
      requests: '1',
      ...(failed && { failed: true, failed_requests: '1' }),
      ...(i % 11 !== 0 && { user_id: `u${i % 13}` }),
      model: `m${i % 4}`,
      provider: i % 4 < 2 ? 'p0' : 'p1',
      ...(i % 5 !== 0 && { prompt_tokens: String(i * 17), completion_tokens: String(i) }),
      cost: String(i * 1_234_567),
      ...(i % 2 === 0 && { metrics: { queries: String(i) } }),
      properties: {
        region: i % 2 === 0 ? 'eu' : 'us',
        score: i / 8,
        beta: i % 3 === 0,
        mixed: i % 2 === 0 ? i : 'text',
      },
    };
  });
  await db.journal.append({ source: 'direct', lines: lines.map((line) => ({ ...line, origin: 'direct' })) });
}

const definition = (calculationFormula: string, more: object = {}) => ({
  metricType: 'RATIO' as const,
  dataSource: 'events' as const,
  calculationFormula,
  ...RANGE,
  ...more,
});

const E = `from usage_events where date between '2026-03-01' and '2026-03-10'`;
const D = `from usage_daily where date between '2026-03-01' and '2026-03-10'`;
const R = `from daily_metrics where period_start between '2026-03-01' and '2026-03-10'`;
const USD = '0.000000001';

/** Name, formula, source, and the equivalent SQL written by hand. */
const USEFUL: [string, string, string, string][] = [
  ['entries', 'COUNT(*)', 'events', `select count(*) ${E}`],
  ['cost', 'SUM(cost)', 'events', `select sum(cost) * ${USD} ${E}`],
  [
    'cost per user',
    'SUM(cost) / COUNT(DISTINCT user_id)',
    'events',
    `select sum(cost) * ${USD} / count(distinct nullif(user_id, '')) ${E}`,
  ],
  ['active users', 'COUNT(DISTINCT user_id)', 'events', `select count(distinct user_id) ${E} and user_id <> ''`],
  ['active users of days', 'COUNT(DISTINCT user_id)', 'usage', `select count(distinct user_id) ${D} and user_id <> ''`],
  ['failures', "COUNT(*) FILTER (WHERE status = 'failure')", 'events', `select count(*) ${E} and failed`],
  [
    'failure rate',
    "100 * COUNT(*) FILTER (WHERE status = 'failure') / COUNT(*)",
    'events',
    `select 100 * sum(failed::int)::numeric / count(*) ${E}`,
  ],
  [
    'failure rate of sums',
    'SUM(failed_requests) / SUM(requests)',
    'usage',
    `select sum(failed_requests) / sum(requests) ${D}`,
  ],
  [
    'p95 tokens',
    'PERCENTILE_DISC(0.95) WITHIN GROUP (ORDER BY total_tokens)',
    'events',
    `select percentile_disc(0.95) within group (order by prompt_tokens + completion_tokens) ${E}`,
  ],
  [
    'median tokens',
    'PERCENTILE_CONT(0.5) WITHIN GROUP (ORDER BY total_tokens)',
    'events',
    `select percentile_cont(0.5) within group (order by prompt_tokens + completion_tokens) ${E}`,
  ],
  [
    'p90 tokens of successes',
    "PERCENTILE_CONT(0.9) WITHIN GROUP (ORDER BY total_tokens) FILTER (WHERE status = 'success')",
    'events',
    `select percentile_cont(0.9) within group (order by prompt_tokens + completion_tokens) ${E} and not failed`,
  ],
  [
    'p10 from the top',
    'PERCENTILE_DISC(0.1) WITHIN GROUP (ORDER BY requests DESC)',
    'usage',
    `select percentile_disc(0.1) within group (order by requests desc) ${D}`,
  ],
  ['largest prompt', 'MAX(prompt_tokens)', 'events', `select max(prompt_tokens) ${E}`],
  ['smallest cost', 'MIN(cost)', 'events', `select min(cost) * ${USD} ${E}`],
  ['mean cost', 'AVG(cost)', 'events', `select avg(cost * ${USD}) ${E}`],
  [
    'tokens per dollar',
    'SUM(total_tokens) / SUM(cost)',
    'usage',
    `select sum(prompt_tokens + completion_tokens) / (sum(cost) * ${USD}) ${D}`,
  ],
  ['integers do not truncate', 'COUNT(DISTINCT model) / COUNT(DISTINCT user_id)', 'events', `select 4 / 13.0`],
  [
    'share of a model',
    "SUM(cost) FILTER (WHERE model = 'm1') / SUM(cost)",
    'usage',
    `select sum(cost) filter (where model = 'm1') / sum(cost) ${D}`,
  ],
  [
    'some models',
    "SUM(requests) FILTER (WHERE model IN ('m1', 'm2'))",
    'usage',
    `select sum(requests) ${D} and model in ('m1', 'm2')`,
  ],
  [
    'other models',
    "SUM(requests) FILTER (WHERE NOT model IN ('m1', 'm2'))",
    'usage',
    `select sum(requests) ${D} and model not in ('m1', 'm2')`,
  ],
  ['without a user', 'COUNT(*) FILTER (WHERE user_id IS NULL)', 'events', `select count(*) ${E} and user_id = ''`],
  ['with a user', 'COUNT(*) FILTER (WHERE user_id IS NOT NULL)', 'events', `select count(*) ${E} and user_id <> ''`],
  [
    'a range of tokens',
    'COUNT(*) FILTER (WHERE prompt_tokens BETWEEN 100 AND 1000)',
    'events',
    `select count(*) ${E} and prompt_tokens between 100 and 1000`,
  ],
  [
    'since a day',
    "SUM(requests) FILTER (WHERE date >= '2026-03-05')",
    'usage',
    `select sum(requests) ${D} and date >= '2026-03-05'`,
  ],
  [
    'since a time',
    "COUNT(*) FILTER (WHERE time >= '2026-03-05T12:00:00Z')",
    'events',
    `select count(*) ${E} and time >= '2026-03-05T12:00:00Z'`,
  ],
  ['another metric', "SUM(metric('queries'))", 'events', `select sum((metrics->>'queries')::numeric) ${E}`],
  ['a measure by its name', "SUM(metric('prompt_tokens'))", 'events', `select sum(prompt_tokens) ${E}`],
  [
    'a property as text',
    "COUNT(*) FILTER (WHERE property('region') = 'eu')",
    'events',
    `select count(*) ${E} and properties->>'region' = 'eu'`,
  ],
  ['a property as a number', "AVG(property('score'))", 'events', `select avg((properties->>'score')::numeric) ${E}`],
  [
    'a property as a condition',
    "COUNT(*) FILTER (WHERE property('beta'))",
    'events',
    `select count(*) ${E} and (properties->>'beta')::boolean`,
  ],
  [
    'a property of mixed kinds',
    "SUM(property('mixed'))",
    'events',
    `select sum((properties->>'mixed')::numeric) ${E} and properties->>'mixed' <> 'text'`,
  ],
  ['regions', "COUNT(DISTINCT property('region'))", 'events', `select 2`],
  [
    'cases',
    "SUM(CASE WHEN model = 'm0' THEN cost * 2 WHEN provider = 'p1' THEN cost ELSE 0 END)",
    'events',
    `select sum(case when model = 'm0' then cost * 2 when provider = 'p1' then cost else 0 end) * ${USD} ${E}`,
  ],
  [
    'short cases',
    "SUM(CASE model WHEN 'm0' THEN 1 WHEN 'm1' THEN 10 END)",
    'usage',
    `select sum(case model when 'm0' then 1 when 'm1' then 10 end) ${D}`,
  ],
  ['nothing is 0', "COALESCE(SUM(cost) FILTER (WHERE model = 'none'), 0)", 'events', `select 0`],
  ['division by zero', 'SUM(cost) / (COUNT(*) - COUNT(*))', 'events', `select null`],
  ['remainder by zero', 'COUNT(*) % 0', 'events', `select null`],
  [
    'a unit price',
    '1000 * SUM(cost) / NULLIF(SUM(total_tokens), 0)',
    'usage',
    `select 1000 * (sum(cost) * ${USD}) / sum(prompt_tokens + completion_tokens) ${D}`,
  ],
  [
    'return on investment',
    '(SUM(requests) * 0.05 - SUM(cost)) / SUM(cost)',
    'usage',
    `select (sum(requests) * 0.05 - sum(cost) * ${USD}) / (sum(cost) * ${USD}) ${D}`,
  ],
  [
    'rollups',
    "SUM(value) FILTER (WHERE entity_type = 'merchant' AND metric_type = 'cost')",
    'daily_metrics',
    `select sum(value) * ${USD} ${R} and entity_type = 'merchant' and metric_type = 'cost'`,
  ],
  [
    'growth',
    "AVG(growth_percent) FILTER (WHERE entity_type = 'platform' AND metric_type = 'requests')",
    'daily_metrics',
    `select avg(growth_percent) ${R} and entity_type = 'platform' and metric_type = 'requests'`,
  ],
];

test.each(USEFUL)('%s: the formula gives what hand-written SQL gives', async (_, formula, dataSource, sql) => {
  const { value } = await engine.custom.test.mutate(definition(formula, { dataSource }));
  const { rows } = await client.query(`select (${sql})::text as value`);
  const expected = rows[0].value as string | null;
  if (expected === null || value === null) expect(value).toBe(expected);
  else {
    const { rows: compared } = await client.query(
      'select abs($1::numeric - $2::numeric) <= abs($2::numeric) * 1e-15 as same',
      [value, expected],
    );
    expect(compared[0].same, `${value} is not ${expected}`).toBe(true);
  }
});

test('rows come by the dimensions, largest first, and the filters hold for all', async () => {
  const { value, rows } = await engine.custom.test.mutate(
    definition('SUM(requests)', {
      dataSource: 'usage',
      dimensions: ['provider', 'model'],
      filters: { merchant_id: 'a', model: ['m0', 'm3'] },
    }),
  );
  const { rows: expected } = await client.query(
    `select provider, model, sum(requests)::text as value ${D} and merchant_id = 'a' and model in ('m0', 'm3')
     group by 1, 2 order by sum(requests) desc, 1, 2`,
  );
  expect(rows).toEqual(expected.map(({ value, ...dimensions }) => ({ dimensions, value })));
  expect(value).toBe(String(expected.reduce((sum, row) => sum + Number(row.value), 0)));
});

test('rows without a dimension are unknown, and can be asked for', async () => {
  const { rows } = await engine.custom.test.mutate(
    definition('COUNT(*)', { dimensions: ['user_id'], filters: { user_id: ['unknown', 'u1'] } }),
  );
  expect(rows.map((row) => row.dimensions.user_id).sort()).toEqual(['u1', 'unknown']);
});

test('a formula of rows is summed up as the method says, or the kind of the metric', async () => {
  const value = async (more: object) =>
    (await engine.custom.test.mutate(definition('requests', { dataSource: 'usage', ...more }))).value;
  expect(await value({ metricType: 'SUM' })).toBe('400');
  expect(await value({ metricType: 'MAX', aggregationMethod: 'SUM' })).toBe('400');
  await expect(value({ metricType: 'RATIO' })).rejects.toMatchObject({ data: { code: 'FORMULA_TYPE' } });
});

test('a caller bound to a merchant computes over its usage alone, whatever the formula says', async () => {
  const analyst = as((await db.keys.create({ name: 'a', role: 'analyst', merchantId: 'a' })).key);
  const { rows: expected } = await client.query(`select count(*)::text as n ${E} and merchant_id = 'a'`);
  const all = await analyst.custom.test.mutate(definition('COUNT(*)', { dimensions: ['merchant_id'] }));
  expect(all.rows).toEqual([{ dimensions: { merchant_id: 'a' }, value: expected[0].n }]);
  const other = await analyst.custom.test.mutate(definition("COUNT(*) FILTER (WHERE merchant_id = 'b')"));
  expect(other.value).toBe('0');
  const rollups = await analyst.custom.test.mutate(
    definition('COUNT(*)', { dataSource: 'daily_metrics', dimensions: ['merchant_id'] }),
  );
  expect(rollups.rows.map((row) => row.dimensions.merchant_id)).toEqual(['a']);
  await expect(analyst.custom.test.mutate(definition('COUNT(*)', { merchantId: 'b' }))).rejects.toMatchObject({
    data: { code: 'MERCHANT_FORBIDDEN' },
  });
});

// On Citus the nodes let only the owner read, so formulas over its tables run as the owner.
test.skipIf(process.env.CITUS_DATABASE_URL)(
  'the role that computes sees the source views, and there only the merchant that is set',
  async () => {
    await client.query('begin; set local role tally_reader');
    try {
      expect((await client.query('select count(*)::int as n from tally_sources.events')).rows[0].n).toBe(0);
      await client.query(`set local tally.merchant_id = 'a'`);
      const { rows } = await client.query('select distinct merchant_id from tally_sources.usage');
      expect(rows).toEqual([{ merchant_id: 'a' }]);
      await expect(client.query('select 1 from usage_events')).rejects.toThrow('permission denied');
    } finally {
      await client.query('rollback');
    }
  },
);

test('a definition is saved, computed, changed into a new version, and its values and steps are kept', async () => {
  const { startDate: _, endDate: __, ...fields } = definition('SUM(cost) / COUNT(DISTINCT user_id)');
  const made = await engine.custom.create.mutate({
    ...fields,
    name: 'Cost per user',
    visibility: 'PRIVATE',
    dimensions: ['model'],
  });
  const first = await engine.custom.calculate.mutate({ id: made.id, ...RANGE });
  const changed = await engine.custom.update.mutate({ id: made.id, calculationFormula: 'SUM(cost)' });
  expect([made.version, changed.version, changed.name]).toEqual([1, 2, 'Cost per user']);
  const second = await engine.custom.calculate.mutate({ id: made.id, ...RANGE });
  const again = await engine.custom.calculate.mutate({ id: made.id, version: 1, ...RANGE });
  expect(again.value).toBe(first.value);
  expect(second.value).not.toBe(first.value);
  const values = await engine.custom.values.query({ id: made.id });
  expect(values.rows.map((row) => [row.version, row.value, row.periodType])).toEqual([
    [1, first.value, 'CUSTOM'],
    [2, second.value, 'CUSTOM'],
  ]);
  const newestValue = await engine.custom.values.query({ id: made.id, limit: 1 });
  const rest = await engine.custom.values.query({ id: made.id, limit: 1, cursor: newestValue.nextCursor! });
  expect([newestValue.rows, rest.rows]).toEqual([values.rows.slice(0, 1), values.rows.slice(1)]);
  const end = await engine.custom.values.query({ id: made.id, limit: 1, cursor: rest.nextCursor! });
  expect(end).toEqual({ rows: [], nextCursor: null });
  await expect(
    engine.custom.values.query({ id: made.id, merchantId: 'a', cursor: newestValue.nextCursor! }),
  ).rejects.toMatchObject({ data: { code: 'INVALID_CURSOR' } });
  const newest = await engine.custom.versions.query({ id: made.id, limit: 1 });
  const oldest = await engine.custom.versions.query({ id: made.id, cursor: newest.nextCursor! });
  expect([...newest.rows, ...oldest.rows].map((row) => row.version)).toEqual([2, 1]);
  expect(oldest.nextCursor).toBeNull();
  expect((await engine.custom.get.query({ id: made.id })).uses).toBe(3);
  expect((await engine.custom.get.query({ id: made.id, version: 1 })).calculationFormula).toContain('DISTINCT');
  const audit = await engine.custom.audit.query({ id: made.id });
  const steps = [
    ['calculate', 1, 'ok'],
    ['calculate', 2, 'ok'],
    ['update', 2, 'ok'],
    ['calculate', 1, 'ok'],
    ['create', 1, 'ok'],
  ];
  expect(audit.rows.map((row) => [row.action, row.version, row.outcome])).toEqual(steps);
  await engine.custom.remove.mutate({ id: made.id });
  await expect(engine.custom.get.query({ id: made.id })).rejects.toMatchObject({ data: { code: 'NOT_FOUND' } });
  await expect(engine.custom.calculate.mutate({ id: made.id, ...RANGE })).rejects.toMatchObject({
    data: { code: 'NOT_FOUND' },
  });
  const history = await engine.custom.audit.query({ id: made.id });
  expect(history.rows.map((row) => [row.action, row.version, row.outcome])).toEqual([['remove', 2, 'ok'], ...steps]);
  expect((await engine.custom.values.query({ id: made.id })).rows).toEqual(values.rows);
  expect((await engine.custom.versions.query({ id: made.id })).rows).toHaveLength(2);
  const other = as((await db.keys.create({ name: 'x', role: 'analyst', merchantId: 'a' })).key);
  await expect(other.custom.audit.query({ id: made.id })).rejects.toMatchObject({ data: { code: 'NOT_FOUND' } });
});

const PUBLIC = {
  name: 'Cost of one user',
  description: 'What it shows',
  metricType: 'SUM' as const,
  dataSource: 'events' as const,
  calculationFormula: 'SUM(cost)',
  visibility: 'PUBLIC' as const,
};

test('other merchants see what a PUBLIC metric computes, and not of whom, by whom or for whom', async () => {
  const hidden = { filters: { user_id: 'secret@example.com' }, dimensions: ['model'], teamId: 'team-of-others' };
  const made = await engine.custom.create.mutate({ ...PUBLIC, ...hidden, merchantId: 'b' });
  await engine.custom.update.mutate({ id: made.id, filters: { user_id: 'another@example.com' } });
  const { id } = made;
  const reader = async (merchantId?: string) =>
    as((await db.keys.create({ name: 'v', role: 'viewer', ...(merchantId && { merchantId }) })).key).custom;
  const seen = async (custom: EngineClient['custom']) => [
    await custom.get.query({ id }),
    await custom.get.query({ id, version: 1 }),
    (await custom.list.query({ limit: 200 })).rows.find((row) => row.id === id),
    ...(await custom.versions.query({ id })).rows.map(({ definition }) => definition),
  ];
  const outside = await seen(await reader('a'));
  expect(outside).toHaveLength(5);
  for (const each of outside) {
    const { id: _, version: __, ...definition } = each as Record<string, unknown>;
    expect(definition).toEqual(PUBLIC);
  }
  expect(JSON.stringify(await (await reader('a')).versions.query({ id }))).not.toMatch(/example|team|createdBy/);
  for (const custom of [engine.custom, await reader(), await reader('b')])
    for (const each of await seen(custom)) expect(each).toMatchObject({ filters: { user_id: expect.any(String) } });
});

test('only a caller bound to no merchant publishes a metric', async () => {
  const bound = as((await db.keys.create({ name: 'x', role: 'analyst', merchantId: 'a' })).key);
  const unbound = as((await db.keys.create({ name: 'x', role: 'analyst' })).key);
  const refused = { data: { code: 'MERCHANT_FORBIDDEN', httpStatus: 403 } };
  await expect(bound.custom.create.mutate(PUBLIC)).rejects.toMatchObject(refused);
  const own = await bound.custom.create.mutate({ ...PUBLIC, visibility: 'ORGANIZATION' });
  await expect(bound.custom.update.mutate({ id: own.id, visibility: 'PUBLIC' })).rejects.toMatchObject(refused);
  expect(await unbound.custom.create.mutate(PUBLIC)).toMatchObject({ visibility: 'PUBLIC' });
  // A metric that a bound caller published earlier can be withdrawn, but not rewritten.
  await client.query(`update custom_metric_definitions set visibility = 'PUBLIC' where id = $1`, [own.id]);
  await client.query(
    `update custom_metric_versions set definition = definition || '{"visibility": "PUBLIC"}' where definition_id = $1`,
    [own.id],
  );
  await expect(bound.custom.update.mutate({ id: own.id, name: 'theirs' })).rejects.toMatchObject(refused);
  expect(await bound.custom.update.mutate({ id: own.id, visibility: 'PRIVATE' })).toMatchObject({ version: 2 });
});

test.each([
  ['DISTINCT_COUNT', 'count', 'COUNT(DISTINCT user_id)', '13', 'COUNT'],
  ['COUNT', 'count', 'user_id', '363', 'COUNT'],
  ['SUM', 'sum', 'requests', '400', 'SUM'],
  ['SUM', undefined, 'requests', '400', undefined],
  ['DISTINCT_COUNT', 'Distinct_Count', 'user_id', '13', 'COUNT_DISTINCT'],
  ['AVERAGE', 'average', 'requests', '1', 'AVG'],
  ['PERCENTILE', 'percentile', 'PERCENTILE_DISC(0.5) WITHIN GROUP (ORDER BY requests)', '1', undefined],
] as const)('a %s with the aggregation method %s can be created and computed', async (...given) => {
  const [metricType, aggregationMethod, calculationFormula, expected, stored] = given;
  const made = await engine.custom.create.mutate({
    ...{ name: 'theirs', metricType, dataSource: 'events', calculationFormula, visibility: 'ORGANIZATION' },
    ...(aggregationMethod && { aggregationMethod }),
  });
  expect(made.aggregationMethod).toBe(stored);
  expect((await engine.custom.calculate.mutate({ id: made.id, ...RANGE })).value).toBe(expected);
});

test('an aggregation method that is none is refused with those that are', async () => {
  await expect(engine.custom.create.mutate({ ...PUBLIC, aggregationMethod: 'median' })).rejects.toMatchObject({
    data: { code: 'INVALID_INPUT' },
    message: expect.stringContaining('COUNT_DISTINCT'),
  });
});

test('PERCENTILE_DISC is the first value at or above an exact share of the rows, whatever doubles say', async () => {
  const day = '2026-02-01';
  const lines = Array.from({ length: 100 }, (_, i) => ({
    ...{ merchant_id: 'disc', date: day, id: `${i}`, time: startOfDay(day), requests: '1', cost: String(i + 1) },
    properties: { n: i + 1 },
  }));
  await db.journal.append({ source: 'direct', lines: lines.map((line) => ({ ...line, origin: 'direct' })) });
  const of = async (fraction: string, column: string, order = '') => {
    const formula = `PERCENTILE_DISC(${fraction}) WITHIN GROUP (ORDER BY ${column}${order})`;
    const asked = definition(formula, { startDate: day, endDate: day, merchantId: 'disc' });
    return (await engine.custom.test.mutate(asked)).value;
  };
  for (const [fraction, rank] of Object.entries({ 0.07: 7, 0.14: 14, 0.28: 28, 0.55: 55, 0.56: 56, 0: 1, 1: 100 }))
    expect(await of(fraction, "property('n')")).toBe(String(rank));
  await fc.assert(
    fc.asyncProperty(fc.integer({ min: 0, max: 10_000 }), fc.boolean(), async (share, descending) => {
      const fraction = `${share === 10_000 ? 1 : 0}.${String(share % 10_000).padStart(4, '0')}`;
      const rank = Math.max(1, Math.ceil(share / 100));
      const value = descending ? 101 - rank : rank;
      expect(await of(fraction, 'cost', descending ? ' DESC' : '')).toBe(formatCost(BigInt(value)));
    }),
    { numRuns: 25 },
  );
});

const percentiles = (count: number) =>
  Array.from({ length: count }, (_, i) => `PERCENTILE_CONT(0.${10 + i}) WITHIN GROUP (ORDER BY total_tokens)`).join(
    ' + ',
  );

test('an estimate prices the sorts of aggregates, also over a table that has no statistics yet', async () => {
  const day = '2026-02-03';
  const line = { merchant_id: 'large', date: day, id: 'first', time: startOfDay(day), requests: '1' };
  await db.journal.append({ source: 'direct', lines: [{ ...line, origin: 'direct' }] });
  await client.query(`
    insert into usage_events (date, merchant_id, id, time, user_id, api_key, model, provider, failed, calls, flush_id,
      prompt_tokens)
    select '${day}', 'large', n::text, '${day}', '', '', '', '', false, 1, 1, n from generate_series(1, 60000) as n`);
  const of = (formula: string) =>
    engine.custom.estimate.mutate(definition(formula, { startDate: day, endDate: day, merchantId: 'large' }));
  for (const _ of ['without statistics', 'with statistics']) {
    const [one, many, none] = [await of(percentiles(1)), await of(percentiles(24)), await of('SUM(cost)')];
    expect([none.cost, one.cost, many.cost]).toEqual(['low', 'low', 'medium']);
    expect(many.planCost).toBeGreaterThan(8 * one.planCost);
    expect((await of('COUNT(DISTINCT user_id)')).planCost).toBeGreaterThan(2 * none.planCost);
    await client.query('analyze usage_events');
  }
});

test('formulas of one caller leave key checks, realtime metrics and the formulas of others alone', async () => {
  const settings = { POSTGRES_POOL_SIZE: '2', CUSTOM_POOL_SIZE: '3', CUSTOM_MAX_PER_CALLER: '2' };
  const started = await stores.start(settings);
  await redisReady(started.redis);
  const analyst = async () => started.as((await db.keys.create({ name: 'x', role: 'analyst' })).key);
  const [greedy, other] = [await analyst(), await analyst()];
  const locker = new pg.Client({ connectionString: stores.store.url });
  await locker.connect();
  await locker.query('begin; lock table usage_daily in access exclusive mode');
  try {
    const blocked = [1, 2].map(() => greedy.custom.test.mutate(definition('COUNT(*)', { dataSource: 'usage' })));
    await expect
      .poll(async () => {
        const { rows } = await client.query(
          `select count(*)::int as waiting from pg_locks where relation = 'usage_daily'::regclass and not granted`,
        );
        return rows[0].waiting;
      })
      .toBe(2);
    for (const ask of [greedy.custom.test, greedy.custom.estimate])
      await expect(ask.mutate(definition('COUNT(*)'))).rejects.toMatchObject({
        data: { code: 'RATE_LIMITED', httpStatus: 429, details: { retryAfter: 1 } },
      });
    expect((await other.custom.test.mutate(definition('COUNT(*)'))).value).toBe('400');
    await started.engine.realtime.increment.mutate({ name: 'not_blocked' });
    await locker.query('rollback');
    for (const { value } of await Promise.all(blocked)) expect(value).not.toBeNull();
    expect((await greedy.custom.test.mutate(definition('COUNT(*)'))).value).toBe('400');
  } finally {
    await locker.end();
  }
});

test('a definition is seen by those that its visibility names, and changed by its owner and admins only', async () => {
  const caller = async (merchantId: string, teamId?: string) =>
    as((await db.keys.create({ name: 'x', role: 'analyst', merchantId, ...(teamId && { teamId }) })).key);
  const owner = await caller('a', 't1');
  const people = {
    owner,
    team: await caller('a', 't1'),
    merchant: await caller('a', 't2'),
    other: await caller('b', 't1'),
    admin: engine,
  };
  const seen: Record<string, string[]> = {};
  for (const visibility of ['PRIVATE', 'TEAM', 'ORGANIZATION', 'PUBLIC'] as const) {
    const { startDate: _, endDate: __, ...fields } = definition('COUNT(*)');
    // Only a caller bound to no merchant may publish one.
    const publisher = visibility === 'PUBLIC' ? engine : owner;
    const { id } = await publisher.custom.create.mutate({ ...fields, name: visibility, visibility });
    seen[visibility] = [];
    for (const [name, person] of Object.entries(people)) {
      const listed = (await person.custom.list.query()).rows.some((row) => row.id === id);
      const computed = await person.custom.calculate.mutate({ id, ...RANGE }).then(
        () => true,
        (error) => {
          expect(error.data.code).toBe('NOT_FOUND');
          return false;
        },
      );
      expect(computed).toBe(listed);
      if (listed) seen[visibility].push(name);
      const change = person.custom.update.mutate({ id, description: name });
      if (name === 'admin' || (name === 'owner' && publisher === owner)) await change;
      else await expect(change).rejects.toMatchObject({ data: { code: listed ? 'FORBIDDEN' : 'NOT_FOUND' } });
    }
  }
  expect(seen).toEqual({
    PRIVATE: ['owner', 'admin'],
    TEAM: ['owner', 'team', 'admin'],
    ORGANIZATION: ['owner', 'team', 'merchant', 'admin'],
    PUBLIC: ['owner', 'team', 'merchant', 'other', 'admin'],
  });
});

test('concurrent changes each become a version or are refused, and never mix', async () => {
  const { startDate: _, endDate: __, ...fields } = definition('COUNT(*)');
  const { id } = await engine.custom.create.mutate({ ...fields, name: 'at once', visibility: 'PUBLIC' });
  const change = (n: number) =>
    engine.custom.update
      .mutate({ id, name: `name ${n}`, calculationFormula: `SUM(cost) * ${n}`, description: `text ${n}` })
      .then(
        ({ version }) => version,
        (error) => error.data.code as string,
      );
  const outcomes = await Promise.all(Array.from({ length: 8 }, (_, n) => change(n)));
  const made = outcomes.filter((each) => typeof each === 'number');
  expect(outcomes.filter((each) => typeof each !== 'number')).toEqual(
    Array.from({ length: 8 - made.length }, () => 'CONFLICT'),
  );
  expect(made.sort()).toEqual(made.map((_, index) => index + 2));
  const { rows } = await engine.custom.versions.query({ id });
  expect(rows.map((row) => row.version)).toEqual([...made.reverse(), 1]);
  for (const { version, definition } of rows.slice(0, -1)) {
    const n = definition.name.slice('name '.length);
    expect(definition).toMatchObject({ calculationFormula: `SUM(cost) * ${n}`, description: `text ${n}` });
    expect(outcomes[Number(n)]).toBe(version);
  }
});

test('every procedure about a definition says the same of who may see it, through changes of its visibility', async () => {
  const caller = async (merchantId: string | undefined, teamId: string | undefined) => ({
    merchantId,
    teamId,
    client: as(
      (
        await db.keys.create({
          name: 'x',
          role: 'analyst',
          ...(merchantId && { merchantId }),
          ...(teamId && { teamId }),
        })
      ).key,
    ),
  });
  const people = await Promise.all([
    caller(undefined, undefined),
    caller(undefined, 't1'),
    caller('a', undefined),
    caller('a', 't1'),
    caller('a', 't2'),
    caller('b', 't1'),
  ]);
  const { startDate: _, endDate: __, ...fields } = definition('COUNT(*)');
  const codeOf = (answer: Promise<unknown>) =>
    answer.then(
      () => 'ok',
      (error) => error.data.code as string,
    );
  for (const owner of people) {
    const { id } = await owner.client.custom.create.mutate({ ...fields, name: 'mine', visibility: 'PRIVATE' });
    for (const visibility of ['PUBLIC', 'TEAM', 'ORGANIZATION', 'PRIVATE'] as const) {
      const changed = await codeOf(owner.client.custom.update.mutate({ id, visibility }));
      const mayPublish = owner.merchantId === undefined;
      if (visibility === 'PUBLIC' && !mayPublish) expect(changed).toBe('MERCHANT_FORBIDDEN');
      else expect(changed).toBe(visibility === 'TEAM' && owner.teamId === undefined ? 'INVALID_INPUT' : 'ok');
      if (changed !== 'ok') continue;
      for (const person of people) {
        const { custom } = person.client;
        const sameMerchant = person.merchantId === owner.merchantId;
        const sees =
          person === owner ||
          visibility === 'PUBLIC' ||
          (visibility === 'ORGANIZATION' && sameMerchant) ||
          (visibility === 'TEAM' && sameMerchant && person.teamId === owner.teamId);
        const seen = sees ? 'ok' : 'NOT_FOUND';
        const owned = person === owner ? 'ok' : sees ? 'FORBIDDEN' : 'NOT_FOUND';
        const said = {
          get: await codeOf(custom.get.query({ id })),
          first: await codeOf(custom.get.query({ id, version: 1 })),
          versions: await codeOf(custom.versions.query({ id })),
          values: await codeOf(custom.values.query({ id })),
          calculate: await codeOf(custom.calculate.mutate({ id, ...RANGE })),
          list: (await custom.list.query({ limit: 200 })).rows.some((row) => row.id === id) ? 'ok' : 'NOT_FOUND',
          audit: await codeOf(custom.audit.query({ id })),
          update: person === owner ? 'ok' : await codeOf(custom.update.mutate({ id, description: 'theirs' })),
          remove: person === owner ? 'ok' : await codeOf(custom.remove.mutate({ id })),
        };
        const same = { get: seen, first: seen, versions: seen, values: seen, calculate: seen, list: seen };
        expect(said).toEqual({ ...same, audit: owned, update: owned, remove: owned });
      }
    }
    await owner.client.custom.remove.mutate({ id });
  }
}, 600_000);

test('texts and versions that the database cannot hold are refused with a code', async () => {
  const fields = { ...definition('SUM(cost)'), name: 'n', visibility: 'PRIVATE' as const };
  const { startDate: _, endDate: __, ...made } = fields as typeof fields & { startDate?: string; endDate?: string };
  const refused = { data: { code: 'INVALID_INPUT' } };
  await expect(engine.custom.create.mutate({ ...made, name: 'a\u0000b' })).rejects.toMatchObject(refused);
  await expect(engine.custom.create.mutate({ ...made, description: '\ud800' })).rejects.toMatchObject(refused);
  await expect(engine.custom.list.query({ limit: 1, search: '\u0000' })).rejects.toMatchObject(refused);
  const { id } = await engine.custom.create.mutate(made);
  await expect(engine.custom.get.query({ id, version: 2 ** 31 })).rejects.toMatchObject(refused);
});

test('refuses a formula whose estimate is too high', async () => {
  const strict = (await stores.start({ CUSTOM_COST_MEDIUM: '1', CUSTOM_COST_HIGH: '2', CUSTOM_COST_LIMIT: '3' }))
    .engine;
  const estimate = await strict.custom.estimate.mutate(definition('COUNT(*)'));
  expect(estimate).toMatchObject({ cost: 'high', allowed: false });
  await expect(strict.custom.test.mutate(definition('COUNT(*)'))).rejects.toMatchObject({
    data: { code: 'FORMULA_TOO_COSTLY' },
  });
  expect(await engine.custom.estimate.mutate(definition('COUNT(*)'))).toMatchObject({ cost: 'low', allowed: true });
});

test('a metric that runs into the time-out gives the code, is in the audit trail, and the next one is answered', async () => {
  const impatient = (await stores.start({ CUSTOM_TIMEOUT_MS: '10' })).engine;
  const locker = new pg.Client({ connectionString: stores.store.url });
  await locker.connect();
  await locker.query('begin; lock table usage_daily in access exclusive mode');
  const { startDate: _, endDate: __, ...fields } = definition('COUNT(*)', { dataSource: 'usage' });
  const { id } = await impatient.custom.create.mutate({ ...fields, name: 'slow', visibility: 'PRIVATE' });
  for (const ask of [
    () => impatient.custom.test.mutate(definition('COUNT(*)', { dataSource: 'usage' })),
    () => impatient.custom.estimate.mutate(definition('COUNT(*)', { dataSource: 'usage' })),
    () => impatient.custom.calculate.mutate({ id, ...RANGE }),
  ])
    await expect(ask()).rejects.toMatchObject({ data: { code: 'QUERY_TIMEOUT', httpStatus: 503 } });
  await locker.query('rollback');
  await locker.end();
  const audit = await impatient.custom.audit.query({ id });
  expect(audit.rows[0]).toMatchObject({ action: 'calculate', outcome: 'QUERY_TIMEOUT' });
  expect((await engine.custom.calculate.mutate({ id, ...RANGE })).value).not.toBeNull();
});

test('over entries that are past the retention a metric says so, and of their sums it is answered', async () => {
  const day = '2025-06-01';
  await db.journal.append({
    source: 'direct',
    lines: [{ merchant_id: 'old', date: day, id: '1', time: startOfDay(day), requests: '1', origin: 'direct' }],
  });
  const of = (merchantId: string, more: object = {}) =>
    engine.custom.test.mutate(
      definition('SUM(requests)', { startDate: '2025-05-30', endDate: '2025-06-02', merchantId, ...more }),
    );
  expect((await of('old')).value).toBe('1');
  // A day is closed once everything is derived from its events.
  while ((await db.derivations.derive(1_000)).flushes > 0);
  while ((await db.meters.derive(1_000)).flushes > 0);
  expect(await db.partitions.close(day)).toBe(true);
  const dropped = { data: { code: 'JOURNAL_DROPPED', details: { startDate: day, endDate: day } } };
  await expect(of('old')).rejects.toMatchObject(dropped);
  await expect(
    engine.custom.estimate.mutate(definition('COUNT(*)', { startDate: day, endDate: day })),
  ).rejects.toMatchObject(dropped);
  expect((await of('a')).value).toBeNull();
  expect((await of('old', { dataSource: 'usage' })).value).toBe('1');
  expect((await of('old', { startDate: '2025-06-02' })).value).toBeNull();
});

test('more groups than allowed are refused', async () => {
  const narrow = (await stores.start({ CUSTOM_MAX_ROWS: '3' })).engine;
  await expect(narrow.custom.test.mutate(definition('COUNT(*)', { dimensions: ['user_id'] }))).rejects.toMatchObject({
    data: { code: 'FORMULA_TOO_COSTLY' },
  });
});

test.each([
  ['a column that is none', { dimensions: ['hash'] }, 'FORMULA_FORBIDDEN'],
  ['a dimension of amounts', { dimensions: ['cost'] }, 'FORMULA_TYPE'],
  ['a filter that is no column', { filters: { xmin: '1' } }, 'FORMULA_FORBIDDEN'],
  ['a filter of another kind', { filters: { requests: 'many' } }, 'FORMULA_TYPE'],
  ['SQL for a column', { dimensions: ['model; drop table x'] }, 'INVALID_INPUT'],
  ['a range in the wrong order', { endDate: '2026-01-01' }, 'INVALID_DATE_ORDER'],
])('a definition with %s is refused', async (_, more, code) => {
  await expect(engine.custom.test.mutate(definition('COUNT(*)', more))).rejects.toMatchObject({ data: { code } });
});

test('any formula of the grammar is computed or refused with a code, never INTERNAL', async () => {
  const { row } = fc.letrec<{ row: string; condition: string }>((tie) => ({
    row: fc.oneof(
      { maxDepth: 3 },
      fc.constantFrom(
        'cost',
        'requests',
        'total_tokens',
        "metric('queries')",
        "property('score')",
        "property('mixed')",
        '0',
        '1.5',
        '999999999999999999',
        'NULL',
      ),
      fc
        .tuple(tie('row'), fc.constantFrom('+', '-', '*', '/', '%'), tie('row'))
        .map(([a, op, b]) => `(${a} ${op} ${b})`),
      fc.tuple(tie('condition'), tie('row'), tie('row')).map(([c, a, b]) => `CASE WHEN ${c} THEN ${a} ELSE ${b} END`),
      fc.tuple(tie('row'), tie('row')).map(([a, b]) => `COALESCE(${a}, NULLIF(${b}, ${a}))`),
    ),
    condition: fc.oneof(
      { maxDepth: 3 },
      fc.constantFrom(
        "model = 'm1'",
        "status <> 'failure'",
        "property('beta')",
        'user_id IS NULL',
        "date >= '2026-03-04'",
        'TRUE',
        'NULL',
      ),
      fc.tuple(tie('row'), fc.constantFrom('=', '<', '>='), tie('row')).map(([a, op, b]) => `(${a} ${op} ${b})`),
      fc
        .tuple(tie('condition'), fc.constantFrom('AND', 'OR'), tie('condition'))
        .map(([a, op, b]) => `(${a} ${op} NOT ${b})`),
    ),
  }));
  const aggregate = fc.oneof(
    fc.tuple(fc.constantFrom('SUM', 'AVG', 'MIN', 'MAX', 'COUNT'), row).map(([name, arg]) => `${name}(${arg})`),
    row.map((arg) => `COUNT(DISTINCT ${arg})`),
    fc
      .tuple(fc.constantFrom('CONT', 'DISC'), row)
      .map(([kind, arg]) => `PERCENTILE_${kind}(0.9) WITHIN GROUP (ORDER BY ${arg})`),
  );
  const formula = fc
    .tuple(aggregate, fc.constantFrom('+', '/', '*', '-'), aggregate)
    .map(([a, op, b]) => `${a} ${op} ${b}`);
  await fc.assert(
    fc.asyncProperty(formula, async (text) => {
      const answer = engine.custom.test.mutate(definition(text, { endDate: '2026-03-02', dimensions: ['model'] }));
      await answer.catch((error) => expect(error.data.code).toMatch(/^FORMULA_/));
    }),
    { numRuns: 100 },
  );
});
