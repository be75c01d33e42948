import { createHash } from 'node:crypto';
import { CALL_SIZES, type UsageEntry } from '@tally/contracts';
import { runsOf } from '@tally/testkit';
import fc from 'fast-check';
import pg from 'pg';
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
const setInput = (amount: string, validFrom = '2026-01-01T00:00:00Z') =>
  ingest.admin.prices.set.mutate({ merchantId, component: 'input', amount, per: 1_000_000, validFrom });
const rerate = (dryRun: boolean, date = '2026-11-22') =>
  ingest.admin.prices.rerate.mutate({ startDate: date, endDate: date, merchantIds: [merchantId], dryRun });
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

test('adjusts days of several users together, also in meters', async () => {
  const key = merchantId.replace('-', '_');
  await ingest.admin.meters.create.mutate({
    ...{ key, name: key, merchantId },
    aggregation: 'SUM',
    metricType: 'cost',
  });
  await setInput('2');
  const days = ['2026-11-20', '2026-11-21', '2026-11-22'];
  const used = days.flatMap((date) => ['ada', 'bob'].map((userId) => ({ userId, time: `${date}T10:00:00Z` })));
  await record(...used.map((each, index) => entry(`event-${index}`, each)));
  await ingest.admin.flush.drain.mutate({});
  await ingest.deriveMeters.run();
  await setInput('3');
  const scope = { startDate: days[0]!, endDate: days[2]!, merchantIds: [merchantId], dryRun: false };
  expect(await ingest.admin.prices.rerate.mutate(scope)).toMatchObject({ adjustments: 6, old: '12', new: '18' });
  expect(await ingest.admin.prices.rerate.mutate(scope)).toMatchObject({ adjustments: 0, old: '18' });
  expect(await balanced()).toBe(true);
});

test.each([
  ['sums', undefined],
  ['events', '2026-11-22T09:00:00Z'],
])('an adjustment made from %s names the re-rating of its row, whatever the row contains', async (_, validFrom) => {
  const dimensions = ['ada', '"a\\b"', '{a,b}', 'NULL', 'a b', 'é😀', "it's", '</a>'];
  await setInput('2');
  const used = dimensions.map((value) => ({ userId: value, apiKey: value, model: value, provider: value }));
  await record(...used.map((each, index) => entry(`event-${index}`, each)));
  await setInput('3', validFrom);
  expect(await rerate(false)).toMatchObject({ adjustments: dimensions.length });
  expect(await rerate(false)).toMatchObject({ adjustments: 0, difference: '0' });
  const digest = (value: string) =>
    createHash('sha256')
      .update(JSON.stringify([value, value, value, value, CALL_SIZES.length]))
      .digest('base64url')
      .slice(0, 22);
  const { adjustments } = await ingest.admin.usage.explain.query({
    ...{ merchantId, date: '2026-11-22', metricType: 'cost' },
  });
  // Other versions of Tally that run at the same time give the same ids.
  expect(adjustments.map(({ id }) => id).sort()).toEqual(
    dimensions.map((value) => `rerate:2026-11-22:${digest(value)}:1`).sort(),
  );
  expect(await balanced()).toBe(true);
});

test('adjusts a user whose erasure has begun under the pseudonym', async () => {
  await setInput('2');
  await record(entry('a', { userId: 'ada' }), entry('b', { userId: 'bob' }));
  await ingest.admin.flush.drain.mutate({});
  const erasure = await ingest.db.erasures.begin({ merchantId, userId: 'ada', everywhere: false }, 'test');
  await setInput('3');
  expect(await rerate(false)).toMatchObject({ adjustments: 2, difference: '2' });
  const { adjustments } = await ingest.admin.usage.explain.query({
    ...{ merchantId, date: '2026-11-22', metricType: 'cost' },
  });
  expect(adjustments.map(({ dimensions }) => dimensions.userId).sort()).toEqual(['bob', erasure.pseudonym].sort());
  await ingest.db.erasures.run(erasure, () => false);
  expect(await rerate(false)).toMatchObject({ adjustments: 0, old: '6', difference: '0' });
  expect(await balanced()).toBe(true);
});

test('adjusts values beyond the limit of their day as one row', async () => {
  const limited = await startIngest({ MAX_DIMENSION_VALUES_PER_DAY: '2' });
  try {
    await limited.admin.prices.set.mutate({
      ...{ component: 'input', amount: '2', per: 1_000_000, validFrom: '2026-01-01T00:00:00Z' },
    });
    const entries = ['ada', 'bob', 'cid', 'dan'].map((userId) => entry(userId, { userId }));
    await limited.admin.usage.record.mutate({ entries });
    await limited.admin.prices.set.mutate({
      ...{ component: 'input', amount: '3', per: 1_000_000, validFrom: '2026-01-01T00:00:00Z' },
    });
    const day = { startDate: '2026-11-22', endDate: '2026-11-22' };
    const rerated = await limited.admin.prices.rerate.mutate({ ...day, dryRun: false });
    expect(rerated).toMatchObject({ adjustments: 3, difference: '4' });
    const beyond = { merchantId, date: '2026-11-22', metricType: 'cost', userIds: ['(other)'] };
    expect(await limited.admin.usage.explain.query(beyond)).toMatchObject({
      ...{ value: '6', agrees: true },
      adjustments: [{ dimensions: { userId: '(other)' }, metrics: { cost: '2' } }],
    });
    expect(await limited.admin.prices.rerate.mutate({ ...day, dryRun: false })).toMatchObject({ adjustments: 0 });
    expect((await limited.admin.reconcile.check.query(day)).balanced).toBe(true);
  } finally {
    await limited.close();
  }
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

test('takes back what it added for events that are all voided', async () => {
  await setInput('2');
  await record(entry('a'), entry('b', { model: 'other', provider: 'openai' }));
  await setInput('3');
  expect(await rerate(false)).toMatchObject({ old: '4', new: '6' });
  await ingest.admin.usage.void.mutate({ merchantId, id: 'a', reason: 'never happened' });
  expect(await costOf()).toBe('4');
  const left = { provider: null, model: 'gpt-4o', events: 0, unpriced: 0, old: '1', new: '0', difference: '-1' };
  expect(await rerate(true)).toMatchObject({ difference: '-1', rows: [left, { model: 'other', difference: '0' }] });
  expect(await rerate(false)).toMatchObject({ adjustments: 1, difference: '-1' });
  expect(await rerate(false)).toMatchObject({ adjustments: 0, difference: '0' });
  expect(await costOf()).toBe('3');
  expect(await balanced()).toBe(true);
});

test('prices sums beyond 64 bits, beside small ones', async () => {
  await setInput('0.0001');
  const tokens = (prompt_tokens: string, model: string) => ({ metrics: { prompt_tokens }, model });
  await record(entry('a', tokens('1000000000000000', 'gpt-4o')), entry('b', tokens('1000000', 'gpt-4o-mini')));
  await setInput('0.000123456789');
  const totals = { old: '100000.0001', new: '123456.789123457' };
  expect(await rerate(true)).toMatchObject(totals);
  expect(await rerate(false)).toMatchObject({ ...totals, adjustments: 2 });
  expect(await costOf()).toBe(totals.new);
  expect(await rerate(false)).toMatchObject({ adjustments: 0, difference: '0' });
});

test('prices days whose events are no longer in the journal, from what is kept of them', async () => {
  const date = '2026-11-12';
  const time = `${date}T10:00:00Z`;
  await setInput('2');
  const long = { metrics: { prompt_tokens: '300000' }, userId: 'bob' };
  await record(entry('a', { time, userId: 'ada' }), entry('b', { time, userId: 'ada' }), entry('c', { time, ...long }));
  await ingest.admin.flush.drain.mutate({});
  await ingest.admin.usage.void.mutate({ merchantId, id: 'b', date, reason: 'never happened' });
  await ingest.derive.run();
  await ingest.deriveMeters.run();
  expect(await ingest.db.partitions.close(date)).toBe(true);
  await setInput('3');
  expect(await rerate(true, date)).toMatchObject({ old: '2.6', new: '3.9', rows: [{ events: 2, unpriced: 0 }] });
  expect(await rerate(false, date)).toMatchObject({ adjustments: 2, difference: '1.3' });
  expect(await rerate(false, date)).toMatchObject({ adjustments: 0, old: '3.9', difference: '0' });
  // Prices that begin within the day, and thresholds between the sizes that are kept, need the events: the cost stays.
  const halfDay = await setInput('9', time);
  expect(await rerate(false, date)).toMatchObject({ adjustments: 0, old: '3.9', rows: [{ unpriced: 2 }] });
  await ingest.admin.prices.remove.mutate({ id: halfDay.id });
  const tier = { merchantId, component: 'input', amount: '5', per: 1_000_000, overPromptTokens: 300_000 } as const;
  await ingest.admin.prices.set.mutate({ ...tier, validFrom: '2026-01-01T00:00:00Z' });
  expect(await rerate(false, date)).toMatchObject({
    adjustments: 1,
    new: '5.9',
    rows: [{ unpriced: 1, difference: '2' }],
  });
  const report = await ingest.admin.reconcile.check.query({
    startDate: date,
    endDate: date,
    merchantIds: [merchantId],
  });
  expect(report.drift).toEqual([]);
});

test('prices from events where the prices of a day are not all the same', async () => {
  await setInput('2');
  await record(entry('early', { time: '2026-11-22T09:00:00Z' }), entry('late', { time: '2026-11-22T11:00:00Z' }));
  await setInput('5', '2026-11-22T10:00:00Z');
  expect(await rerate(true)).toMatchObject({ old: '4', new: '7' });
  expect(await rerate(false)).toMatchObject({ adjustments: 1 });
  expect(await rerate(false)).toMatchObject({ adjustments: 0, old: '7', new: '7' });
  expect(await balanced()).toBe(true);
});

test('leaves the cost of an earlier re-rating where the list has no price any more', async () => {
  await setInput('2');
  const late = { time: '2026-11-22T11:00:00Z' };
  await record(
    entry('early', { time: '2026-11-22T09:00:00Z' }),
    entry('late', late),
    entry('other', { ...late, userId: 'bob' }),
  );
  await setInput('3');
  expect(await rerate(false)).toMatchObject({ old: '6', new: '9' });
  for (const { id } of (await ingest.admin.prices.list.query({ merchantId })).rows)
    await ingest.admin.prices.remove.mutate({ id });
  await ingest.admin.prices.set.mutate({
    ...{ merchantId, component: 'input', amount: '5', per: 1_000_000 },
    ...{ validFrom: '2026-11-22T08:00:00Z', validTo: '2026-11-22T10:00:00Z' },
  });
  // What the late event costs of the 6 USD is unknown, so its row stays as a whole.
  const row = { events: 3, unpriced: 3, old: '9', new: '9' };
  expect(await rerate(false)).toMatchObject({ adjustments: 0, rows: [row] });
  expect(await costOf()).toBe('9');
  expect(await balanced()).toBe(true);
});

test.each([
  ['unit', 'an event beside it has tokens', [{ metrics: { prompt_tokens: '100000' } }], '2'],
  ['unit', 'it is alone', [], '0'],
  ['unit', 'a price begins within the day', [{ metrics: { prompt_tokens: '100000' } }], '2'],
  ['request', 'an event beside it has tokens', [{ metrics: { prompt_tokens: '100000' } }], '2'],
  ['request', 'it is alone', [], '0'],
] as const)('a %s whose price was removed costs nothing, also where %s', async (component, where, beside, cost) => {
  if (beside.length > 0) await setInput('20');
  const { id } = await ingest.admin.prices.set.mutate({
    ...{ merchantId, component, amount: '7', validFrom: '2026-01-01T00:00:00Z' },
    ...(component === 'unit' && { meter: 'images' }),
  });
  await record(entry('a', { metrics: { images: '1' } }), ...beside.map((more) => entry('b', more)));
  await ingest.admin.prices.remove.mutate({ id });
  if (where === 'a price begins within the day') await setInput('30', '2026-11-22T11:00:00Z');
  const row = { events: 1 + beside.length, unpriced: 0, new: cost };
  expect(await rerate(true)).toMatchObject({ rows: [row] });
  expect(await rerate(false)).toMatchObject({ rows: [row] });
  expect(await costOf()).toBe(cost);
  expect(await rerate(false)).toMatchObject({ adjustments: 0, rows: [row] });
  expect(await balanced()).toBe(true);
});

test('a damaged sum of what was priced is drift, and a rebuild repairs it', async () => {
  await setInput('2');
  await record(entry('a', { userId: 'ada' }));
  await ingest.admin.flush.drain.mutate({});
  const { rows } = await ingest.admin.prices.list.query({ merchantId });
  expect(rows).toHaveLength(1);
  const postgres = new pg.Client({ connectionString: ingest.databaseUrl });
  await postgres.connect();
  await postgres.query('update usage_priced set priced_cost = priced_cost - 1 where merchant_id = $1', [merchantId]);
  await postgres.end();
  const range = { startDate: '2026-11-22', endDate: '2026-11-22', merchantIds: [merchantId] };
  expect((await ingest.admin.reconcile.check.query(range)).drift).toMatchObject([
    { rollup: 'usage_priced', metricType: 'priced_cost', journal: '2', drift: '-0.000000001' },
  ]);
  await ingest.admin.reconcile.rebuild.mutate(range);
  expect(await balanced()).toBe(true);
});

test('ends where pricing at first would have ended, whatever happened before', async () => {
  const amount = fc.integer({ min: 0, max: 9 });
  const step = fc.oneof(
    fc.record({ set: amount }),
    fc.record({ record: fc.integer({ min: 1, max: 3 }) }),
    fc.constant({ rerate: true }),
    fc.constant({ void: true }),
    fc.constant({ rebuild: true }),
  );
  let round = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 8 }), amount, async (steps, last) => {
      merchantId = `law-${round++}`;
      let [events, voided] = [0, 0];
      for (const each of steps) {
        if ('set' in each) await setInput(String(each.set));
        else if ('rerate' in each) await rerate(false);
        else if ('rebuild' in each) await ingest.db.rebuild.merchant(merchantId, '2026-11-22', '2026-11-22');
        else if ('void' in each) {
          if (voided < events)
            await ingest.admin.usage.void.mutate({ merchantId, id: `e${voided++}`, reason: 'wrong' });
        } else for (let n = 0; n < each.record; n++) await record(entry(`e${events++}`, { userId: `u${events % 2}` }));
      }
      await setInput(String(last));
      const reported = await rerate(true);
      const applied = await rerate(false);
      expect(applied).toEqual({ ...reported, dryRun: false, adjustments: applied.adjustments });
      expect(await rerate(false)).toMatchObject({ adjustments: 0, difference: '0' });
      if (events > 0) expect(await costOf().catch(() => '0')).toBe(String((events - voided) * last));
      expect(await balanced()).toBe(true);
    }),
    { numRuns: runsOf({ short: 3, long: 6 }) },
  );
});

test('reports the greatest differences of more merchants than one statement reads, and the sums of all', async () => {
  const day = '2026-10-05';
  const [model, count, merchants] = ['of-everybody', 40_000, 'many-'];
  const postgres = new pg.Client({ connectionString: ingest.databaseUrl });
  await postgres.connect();
  await postgres.query(
    `insert into usage_priced (merchant_id, date, user_id, api_key, model, provider, call_size, priced_events,
       priced_requests, priced_input_tokens, priced_cost)
     select $1 || lpad(n::text, 5, '0'), $2::date, 'ada', '', $3, '', 0, 1, 1, n, n * 1000
     from generate_series(1, $4::int) as n`,
    [merchants, day, model, count],
  );
  const validFrom = '2026-01-01T00:00:00Z';
  await ingest.admin.prices.set.mutate({ model, component: 'input', amount: '3', per: 1_000_000, validFrom });
  const { rows, ...report } = await ingest.admin.prices.rerate.mutate({ startDate: day, endDate: day });
  // One token costs 1000 nano-USD by the first prices, and 3000 now.
  const tokens = (count * (count + 1)) / 2;
  const usd = (nano: number) => String(nano / 1e9);
  expect(report).toMatchObject({ truncated: true, old: usd(tokens * 1000), new: usd(tokens * 3000) });
  expect(rows).toHaveLength(10_000);
  expect(rows[0]).toMatchObject({ merchantId: 'many-30001', difference: usd(30_001 * 2000) });
  expect(rows.at(-1)).toMatchObject({ merchantId: 'many-40000', difference: usd(40_000 * 2000) });
  await postgres.query('delete from usage_priced where model = $1', [model]);
  await postgres.end();
});
