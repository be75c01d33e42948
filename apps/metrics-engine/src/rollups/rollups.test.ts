import { addDays, countDays, type Day, dayOf, eachDay, formatCost, type RollupRow, startOfDay } from '@tally/contracts';
import type { EngineClient } from '@tally/contracts/client';
import { type Db, type JournalLine, openDb } from '@tally/db';
import { runsOf } from '@tally/testkit';
import fc from 'fast-check';
import type pg from 'pg';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { type Engine, prepareStores, type Stores } from '../../test/start.ts';
import { periodOf, periodsOf } from './periods.ts';
import { createRollups } from './rollups.ts';

let stores: Stores;
let db: Db;
let client: pg.Client;
let engine: EngineClient;
let now = Date.parse('2026-03-20T08:00:00Z');
let as: Engine['as'];

beforeAll(async () => {
  stores = await prepareStores();
  ({ db, client } = stores);
  ({ engine, as } = await stores.start({}, () => now));
});

afterAll(() => stores.close());

beforeEach(async () => {
  now = Date.parse('2026-03-20T08:00:00Z');
  await empty();
  await client.query('delete from metrics_aggregation_jobs_log');
});

const TABLES = [
  ...['usage_events', 'usage_daily', 'usage_monthly', 'usage_yearly', 'usage_daily_models', 'usage_quarter_hours'],
  ...['merchant_usage', 'usage_touched_days', 'metrics_stale_periods'],
  ...['daily_metrics', 'weekly_metrics', 'monthly_metrics'],
];

/** Removes few rows: `truncate` makes new files for every table and index, which costs fifty times as much. */
const empty = () => client.query(TABLES.map((table) => `delete from ${table}`).join('; '));

type Entry = {
  merchant: string;
  date: Day;
  user?: string | undefined;
  model?: string | undefined;
  tokens?: string;
  cost?: string;
  queries?: string;
  failed?: boolean;
};

/** What runs of an engine without usage-ingest count. */
const drain = async () => ({ complete: false, asOf: null });

let ids = 0;
const append = (entries: readonly Entry[]) => {
  const lines = entries.map(
    ({ merchant, date, user, model, tokens, cost, queries, failed }): JournalLine => ({
      merchant_id: merchant,
      date,
      id: `e${ids++}`,
      time: startOfDay(date) + 1,
      requests: '1',
      ...(user && { user_id: user }),
      ...(model && { model, provider: 'p' }),
      ...(tokens && { prompt_tokens: tokens, completion_tokens: '1' }),
      ...(cost && { cost }),
      ...(queries && { metrics: { queries } }),
      ...(failed && { failed: true, failed_requests: '1' }),
    }),
  );
  return db.journal.append({ source: 'direct', lines: lines.map((line) => ({ ...line, origin: 'direct' })) });
};

const all = async (grain: 'daily' | 'weekly' | 'monthly', range: { startDate: Day; endDate: Day }) => {
  const rows: RollupRow[] = [];
  for (let cursor: string | undefined; ; ) {
    const page = await engine.rollups[grain].list.query({ ...range, limit: 7, ...(cursor && { cursor }) });
    rows.push(...page.rows);
    if (page.nextCursor === null) return rows;
    cursor = page.nextCursor;
  }
};

/** The rollups by brute force: every event added to every row it belongs to. */
function expected(grain: 'daily' | 'weekly' | 'monthly', entries: readonly Entry[], start: Day, end: Day): RollupRow[] {
  const sums = new Map<string, bigint>();
  const add = (entry: Entry, type: string, id: string, own: string | null, metric: string, units: bigint) => {
    if (units === 0n) return;
    const keys = [JSON.stringify([own, type, id, metric, periodOf(grain, entry.date, 1).start])];
    if (grain === 'monthly')
      keys.push(
        JSON.stringify([
          own,
          type,
          id,
          metric,
          'week',
          entry.date.slice(0, 7),
          periodOf('weekly', entry.date, 1).start,
        ]),
      );
    for (const key of keys) sums.set(key, (sums.get(key) ?? 0n) + units);
  };
  for (const entry of entries) {
    const tokens = BigInt(entry.tokens ?? 0);
    const completion = entry.tokens ? 1n : 0n;
    const measures: [string, bigint][] = [
      ['requests', 1n],
      ['failed_requests', entry.failed ? 1n : 0n],
      ['prompt_tokens', tokens],
      ['completion_tokens', completion],
      ['total_tokens', tokens + completion],
      ['cost', BigInt(entry.cost ?? 0)],
    ];
    for (const [metric, units] of measures) {
      add(entry, 'user', entry.user ?? 'unknown', entry.merchant, metric, units);
      add(entry, 'model', entry.model ?? 'unknown', entry.merchant, metric, units);
      add(entry, 'provider', entry.model ? 'p' : 'unknown', entry.merchant, metric, units);
    }
    for (const [metric, units] of [...measures, ['queries', BigInt(entry.queries ?? 0)] as const]) {
      add(entry, 'merchant', entry.merchant, entry.merchant, metric, units);
      add(entry, 'platform', 'platform', null, metric, units);
    }
  }
  const rows: RollupRow[] = [];
  for (const period of periodsOf(grain, start, end, 1)) {
    const before = periodOf(grain, addDays(period.start, -1), 1);
    const days = BigInt(countDays(period.start, period.end));
    for (const [key, value] of sums) {
      const [own, type, id, metric, at, month] = JSON.parse(key) as string[];
      if (month !== undefined || at !== period.start) continue;
      const show = (units: bigint) => (metric === 'cost' ? formatCost(units) : units.toString());
      const previous = sums.get(JSON.stringify([own, type, id, metric, before.start]));
      const round = (part: bigint, whole: bigint) => (2n * part + whole) / (2n * whole);
      const average =
        metric === 'cost' ? formatCost(round(value, days)) : formatCost(round(value * 1_000_000n, days) * 1000n);
      const change = previous === undefined ? undefined : (value - previous) * 10_000n;
      const cents = change === undefined ? null : change < 0n ? -round(-change, previous!) : round(change, previous!);
      // Through its text: dividing a rounded double again would lose the last digit.
      const growth = cents === null ? null : Number(formatCost(cents * 10_000_000n));
      const weeks = eachDay(period.start, period.end).map((day) => periodOf('weekly', day, 1));
      const breakdown = [...new Map(weeks.map((week) => [week.start, week])).values()].flatMap((week) => {
        const value = sums.get(JSON.stringify([own, type, id, metric, 'week', period.start.slice(0, 7), week.start]));
        const [, startDate] = [week.start, period.start].sort();
        const [endDate] = [week.end, period.end].sort();
        return value === undefined ? [] : [{ startDate: startDate!, endDate: endDate!, value: show(value) }];
      });
      rows.push({
        merchantId: own ?? null,
        entityType: type as RollupRow['entityType'],
        entityId: id!,
        periodStart: period.start,
        periodEnd: period.end,
        metricType: metric!,
        value: show(value),
        dailyAverage: average,
        previous: previous === undefined ? null : show(previous),
        growthPercent: growth,
        ...(grain === 'monthly' && { breakdown }),
      });
    }
  }
  return rows.sort(byKey);
}

const byKey = (a: RollupRow, b: RollupRow) => {
  const key = (row: RollupRow) =>
    [row.periodStart, row.entityType, row.merchantId ?? '', row.entityId, row.metricType].join('\0');
  return key(a) < key(b) ? -1 : 1;
};

const arbitraryEntries = (first: Day, days: number) =>
  fc.array(
    fc.record({
      merchant: fc.constantFrom('a', 'b'),
      date: fc.integer({ min: 0, max: days - 1 }).map((day) => addDays(first, day)),
      user: fc.constantFrom(undefined, 'u1', 'u2', 'ü/%'),
      model: fc.constantFrom(undefined, 'm1', 'm2'),
      tokens: fc.constantFrom('', '7', '9007199254740993'),
      cost: fc.constantFrom('', '1', '2300000', '1000000000000000'),
      queries: fc.constantFrom('', '3'),
      failed: fc.boolean(),
    }),
    { minLength: 1, maxLength: 40 },
  );

test.each([
  ['weekly', '2025-12-15', 35, 'a year that ends mid-week'],
  ['monthly', '2024-01-20', 60, 'months of 31, 29 and 31 days'],
  ['monthly', '2026-01-25', 70, 'months of 31, 28, 31 and 30 days'],
  ['daily', '2026-02-26', 5, 'the end of February'],
] as ['daily' | 'weekly' | 'monthly', Day, number, string][])(
  '%s rollups from %s over %i days are what brute force says: %s',
  async (grain, first, days, _) => {
    const range = { startDate: first, endDate: addDays(first, days - 1) };
    await fc.assert(
      fc.asyncProperty(arbitraryEntries(first, days), arbitraryEntries(first, days), async (entries, late) => {
        await empty();
        await append(entries);
        const { status } = await engine.rollups[grain].backfill.mutate(range);
        expect(status).toBe('COMPLETED');
        const once = await all(grain, range);
        expect(once).toEqual(expected(grain, entries, range.startDate, range.endDate));

        await engine.rollups[grain].backfill.mutate(range);
        expect(await all(grain, range)).toEqual(once);

        now = Date.parse('2026-06-01T08:00:00Z');
        await append(late);
        await engine.rollups.refresh.mutate();
        const refreshed = (await all(grain, range)).filter((row) => row.periodStart <= range.endDate);
        expect(refreshed).toEqual(expected(grain, [...entries, ...late], range.startDate, range.endDate));
        const marks = await client.query('select 1 from usage_touched_days');
        expect(marks.rowCount).toBe(0);
      }),
      { numRuns: runsOf({ short: 2, long: 5 }) },
    );
  },
);

test('a run without a date computes the last complete period', async () => {
  expect((await engine.rollups.daily.run.mutate()).period).toEqual({ startDate: '2026-03-19', endDate: '2026-03-19' });
  expect((await engine.rollups.weekly.run.mutate()).period).toEqual({ startDate: '2026-03-09', endDate: '2026-03-15' });
  expect((await engine.rollups.monthly.run.mutate()).period).toEqual({
    startDate: '2026-02-01',
    endDate: '2026-02-28',
  });
});

test('growth is null without a period before, and the period before is kept beside it', async () => {
  await append([{ merchant: 'a', date: '2026-03-02', cost: '1000000000' }]);
  await append([{ merchant: 'a', date: '2026-03-09', cost: '1500000000' }]);
  await engine.rollups.weekly.backfill.mutate({ startDate: '2026-03-02', endDate: '2026-03-15' });
  const { rows } = await engine.rollups.weekly.list.query({
    startDate: '2026-03-02',
    endDate: '2026-03-15',
    entityType: 'merchant',
    metricTypes: ['cost'],
  });
  expect(
    rows.map(({ value, previous, growthPercent, dailyAverage }) => [value, previous, growthPercent, dailyAverage]),
  ).toEqual([
    ['1', null, null, '0.142857143'],
    ['1.5', '1', 50, '0.214285714'],
  ]);
});

test('marks of today stay until the day is over', async () => {
  await append([{ merchant: 'a', date: dayOf(now) }]);
  const { daysTouched, periods } = await engine.rollups.refresh.mutate();
  expect([daysTouched, periods]).toEqual([0, []]);
  now += 86_400_000;
  expect((await engine.rollups.refresh.mutate()).daysTouched).toBe(1);
  const { rows } = await engine.rollups.daily.list.query({ startDate: '2026-03-20', endDate: '2026-03-20' });
  expect(rows.filter((row) => row.entityType === 'merchant').map((row) => row.value)).toEqual(['1']);
});

/** Returns the value of a merchant in each period of a range. */
const valuesOf = async (grain: 'daily' | 'weekly' | 'monthly', range: { startDate: Day; endDate: Day }) => {
  const { rows } = await engine.rollups[grain].list.query({
    ...range,
    entityType: 'merchant',
    metricTypes: ['requests'],
  });
  return rows.map((row) => [row.merchantId, row.periodStart, row.value]);
};

test('the mark of a day that is being written to stays, and its periods are computed again', async () => {
  await append([{ merchant: 'a', date: '2026-03-01' }]);
  const day = { startDate: '2026-03-01', endDate: '2026-03-01' };
  await client.query('begin');
  await client.query(`update usage_touched_days set touched_at = clock_timestamp()`);
  try {
    expect((await engine.rollups.refresh.mutate()).daysTouched).toBe(0);
    expect(await valuesOf('daily', day)).toEqual([['a', '2026-03-01', '1']]);
  } finally {
    await client.query('commit');
  }
  await append([{ merchant: 'a', date: '2026-03-01' }]);
  expect((await engine.rollups.refresh.mutate()).daysTouched).toBe(1);
  expect(await valuesOf('daily', day)).toEqual([['a', '2026-03-01', '2']]);
});

test('a refresh while a week and a month are open leaves them to one that comes after their end', async () => {
  await append([{ merchant: 'a', date: '2026-03-19' }]);
  await engine.rollups.refresh.mutate();
  const day = { startDate: '2026-03-19', endDate: '2026-03-19' };
  expect(await valuesOf('daily', day)).toEqual([['a', '2026-03-19', '1']]);
  expect([await valuesOf('weekly', day), await valuesOf('monthly', day)]).toEqual([[], []]);
  now += 40 * 86_400_000;
  await engine.rollups.refresh.mutate();
  expect(await valuesOf('weekly', day)).toEqual([['a', '2026-03-16', '1']]);
  expect(await valuesOf('monthly', day)).toEqual([['a', '2026-03-01', '1']]);
  expect((await client.query('select 1 from metrics_stale_periods')).rowCount).toBe(0);
});

test('a refresh computes what a run failed to compute', async () => {
  await append([{ merchant: 'a', date: '2026-02-10' }]);
  await client.query('truncate usage_touched_days');
  for (const grain of ['daily', 'weekly', 'monthly'] as const) {
    await client.query(`alter table ${grain}_metrics add constraint broken check (period_start < '2026-01-01')`);
    try {
      expect((await engine.rollups[grain].run.mutate({ date: '2026-02-10' })).status).toBe('FAILED');
      expect((await engine.rollups.refresh.mutate()).status).toBe('FAILED');
    } finally {
      await client.query(`alter table ${grain}_metrics drop constraint broken`);
    }
    expect((await engine.rollups.refresh.mutate()).status).toBe('COMPLETED');
    const [row] = await valuesOf(grain, { startDate: '2026-02-10', endDate: '2026-02-10' });
    expect(row).toEqual(['a', periodOf(grain, '2026-02-10', 1).start, '1']);
  }
});

test('a refresh ends however many late entries come while it runs, and computes each period once', async () => {
  const late = (n: number) => append([{ merchant: `late-${n}`, date: '2026-02-10' }]);
  await late(0);
  let ended = false;
  const refreshing = engine.rollups.refresh.mutate().finally(() => {
    ended = true;
  });
  let written = 1;
  while (!ended) await late(written++);
  const { periods } = await refreshing;
  const computed = periods.map(({ period }) => `${period.startDate} ${period.endDate}`);
  expect(new Set(computed).size).toBe(computed.length);
  await engine.rollups.refresh.mutate();
  const { rows } = await engine.rollups.daily.list.query({
    ...{ startDate: '2026-02-10', endDate: '2026-02-10', entityType: 'platform', metricTypes: ['requests'] },
  });
  expect(rows.map((row) => row.value)).toEqual([String(written)]);
});

test('weeks of an older WEEK_START go when weeks are computed, and no day is counted twice', async () => {
  const entries = eachDay('2026-02-01', '2026-03-15').map(
    (date): Entry => ({ merchant: 'a', date, user: 'u', tokens: '5' }),
  );
  await append(entries);
  const range = { startDate: '2026-02-02', endDate: '2026-03-15' };
  await engine.rollups.weekly.backfill.mutate(range);
  await engine.rollups.monthly.backfill.mutate(range);
  expect(await valuesOf('weekly', range)).toHaveLength(6);

  const sunday = createRollups({ db, weekStart: 7, maxBackfillDays: 100, now: () => now, drain });
  await sunday.run('weekly', { date: '2026-03-08' });
  const starts = ['2026-02-01', '2026-02-08', '2026-02-15', '2026-02-22', '2026-03-01', '2026-03-08'];
  expect(await valuesOf('weekly', { startDate: '2026-02-01', endDate: '2026-03-14' })).toEqual(
    starts.map((start) => ['a', start, '7']),
  );
  const { value } = await engine.custom.test.mutate({
    metricType: 'SUM',
    dataSource: 'weekly_metrics',
    calculationFormula: "SUM(value) FILTER (WHERE entity_type = 'merchant' AND metric_type = 'requests')",
    startDate: '2026-02-01',
    endDate: '2026-03-14',
  });
  expect(value).toBe('42');
  const { rows } = await engine.rollups.monthly.list.query({
    ...{ startDate: '2026-02-01', endDate: '2026-02-28', entityType: 'merchant', metricTypes: ['requests'] },
  });
  expect(rows[0]!.breakdown!.map((week) => [week.startDate, week.value])).toEqual(
    starts.slice(0, 4).map((start) => [start, '7']),
  );
});

test('a week of an older WEEK_START that is still stale becomes the weeks that cover its days', async () => {
  await append([
    { merchant: 'a', date: '2026-03-17' },
    { merchant: 'a', date: '2026-03-19' },
  ]);
  await engine.rollups.refresh.mutate();
  expect((await client.query(`select 1 from metrics_stale_periods where grain = 'weekly'`)).rowCount).toBe(1);
  now += 40 * 86_400_000;
  const thursday = createRollups({ db, weekStart: 4, maxBackfillDays: 100, now: () => now, drain });
  await thursday.refresh();
  expect(await valuesOf('weekly', { startDate: '2026-03-01', endDate: '2026-03-31' })).toEqual([
    ['a', '2026-03-12', '1'],
    ['a', '2026-03-19', '1'],
  ]);
  expect((await client.query('select 1 from metrics_stale_periods')).rowCount).toBe(0);
});

test('two engines at once write each period once', async () => {
  const entries = eachDay('2026-02-01', '2026-02-28').map(
    (date): Entry => ({ merchant: 'a', date, user: 'u', tokens: '5' }),
  );
  await append(entries);
  const other = await openDb(stores.store.url);
  const second = createRollups({ db: other, weekStart: 1, maxBackfillDays: 100, now: () => now, drain });
  const range = { startDate: '2026-02-01', endDate: '2026-02-28' };
  const [one, two] = await Promise.all([engine.rollups.daily.backfill.mutate(range), second.backfill('daily', range)]);
  await other.close();
  expect([one.status, two.status]).toEqual(['COMPLETED', 'COMPLETED']);
  expect(await all('daily', range)).toEqual(expected('daily', entries, range.startDate, range.endDate));
});

test('a backfill that an engine leaves in the middle is ended by another one', async () => {
  const entries = eachDay('2026-02-01', '2026-02-10').map((date): Entry => ({ merchant: 'a', date, tokens: '5' }));
  await append(entries);
  const range = { startDate: '2026-02-01', endDate: '2026-02-10' };
  const dying = await openDb(stores.store.url);
  const lease = await dying.rollups.begin({
    kind: 'daily',
    period: { start: range.startDate, end: range.endDate },
    periodsTotal: 10,
  });
  for (const date of ['2026-02-01', '2026-02-02', '2026-02-03']) {
    const period = { start: date, end: date, previousStart: addDays(date, -1), weeksFrom: null };
    await lease.advance(await lease.recompute('daily', period, 'all'));
  }
  const survivor = createRollups({ db, weekStart: 1, maxBackfillDays: 100, now: () => now, drain });
  expect(await survivor.recover()).toBe(0);
  // Like a kill: the connection ends, and with it the lock.
  await client.query(`select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and pid <> pg_backend_pid()
    and database = (select oid from pg_database where datname = current_database())`);
  await lease.release().catch(() => {});
  await expect.poll(() => survivor.recover()).toBe(1);
  const { rows } = await engine.jobs.log.query();
  expect(rows[0]).toMatchObject({ status: 'COMPLETED', periodsDone: 10, periodsTotal: 10, attempts: 2, error: null });
  expect(await all('daily', range)).toEqual(expected('daily', entries, range.startDate, range.endDate));
  await dying.close();
});

test('a period that fails leaves the others, and the run is PARTIAL', async () => {
  await append(eachDay('2026-02-01', '2026-02-03').map((date): Entry => ({ merchant: 'a', date })));
  await client.query(`alter table daily_metrics add constraint broken check (period_start <> '2026-02-02')`);
  try {
    const run = await engine.rollups.daily.backfill.mutate({ startDate: '2026-02-01', endDate: '2026-02-03' });
    expect(run.status).toBe('PARTIAL');
    expect(run.periods.map((each) => each.status)).toEqual(['COMPLETED', 'FAILED', 'COMPLETED']);
    expect(run.errors).toMatchObject([{ period: '2026-02-02' }]);
    expect((await engine.rollups.daily.run.mutate({ date: '2026-02-02' })).status).toBe('FAILED');
  } finally {
    await client.query(`alter table daily_metrics drop constraint broken`);
  }
});

test('a run of more periods than errors are kept is FAILED where all of them failed', async () => {
  await append(eachDay('2025-10-01', '2026-01-28').map((date): Entry => ({ merchant: 'a', date })));
  await client.query(`alter table daily_metrics add constraint broken check (period_start < '2025-01-01')`);
  try {
    const run = await engine.rollups.daily.backfill.mutate({ startDate: '2025-10-01', endDate: '2026-01-28' });
    expect([run.status, run.periods.length, run.errors.length]).toEqual(['FAILED', 120, 100]);
  } finally {
    await client.query(`alter table daily_metrics drop constraint broken`);
  }
});

test('a caller bound to a merchant sees its rows alone and may not compute', async () => {
  await append([
    { merchant: 'a', date: '2026-03-01' },
    { merchant: 'b', date: '2026-03-01' },
  ]);
  await engine.rollups.daily.run.mutate({ date: '2026-03-01' });
  const bound = as((await db.keys.create({ name: 'viewer of a', role: 'viewer', merchantId: 'a' })).key);
  const range = { startDate: '2026-03-01', endDate: '2026-03-01' };
  const { rows } = await bound.rollups.daily.list.query(range);
  expect(new Set(rows.map((row) => row.merchantId))).toEqual(new Set(['a']));
  await expect(bound.rollups.daily.list.query({ ...range, merchantId: 'b' })).rejects.toMatchObject({
    data: { code: 'MERCHANT_FORBIDDEN' },
  });
  await expect(bound.rollups.daily.run.mutate()).rejects.toMatchObject({ data: { code: 'FORBIDDEN' } });
});

test.each([
  ['the wrong order', { startDate: '2026-02-02', endDate: '2026-02-01' }, 'INVALID_DATE_ORDER'],
  ['too long a range', { startDate: '2000-01-01', endDate: '2026-02-01' }, 'DATE_RANGE_TOO_LARGE'],
  ['the last days that can be written', { startDate: '9999-12-31', endDate: '9999-12-31' }, 'INVALID_DATE_FORMAT'],
  ['a day that does not exist', { startDate: '2026-02-30', endDate: '2026-03-01' }, 'INVALID_DATE_FORMAT'],
])('a backfill over %s is refused', async (_, range, code) => {
  await expect(engine.rollups.daily.backfill.mutate(range)).rejects.toMatchObject({ data: { code } });
});

test('the first day of all is computed, though its week begins before it', async () => {
  const { period } = await engine.rollups.weekly.run.mutate({ date: '1000-01-01' });
  expect(period).toEqual({ startDate: '0999-12-30', endDate: '1000-01-05' });
});

test('an entity that cannot be is refused with a code', async () => {
  const question = { startDate: '2026-03-01', endDate: '2026-03-01', entityIds: ['a\u0000b'] };
  await expect(engine.rollups.daily.list.query(question)).rejects.toMatchObject({ data: { code: 'INVALID_INPUT' } });
});

test('weeks are those of ISO 8601 and months those of the calendar, for every day of the years', async () => {
  const { rows } = await client.query(
    `select day::date::text as day, date_trunc('week', day)::date::text as week, date_trunc('month', day)::date::text as month,
       (date_trunc('month', day) + interval '1 month - 1 day')::date::text as last
     from generate_series(timestamp '1996-01-01', timestamp '2036-12-31', interval '1 day') as day`,
  );
  for (const { day, week, month, last } of rows) {
    expect(periodOf('weekly', day, 1)).toEqual({ start: week, end: addDays(week, 6) });
    expect(periodOf('monthly', day, 1)).toEqual({ start: month, end: last });
  }
});

/** A cursor with another position, for the same query. */
function changed(cursor: string | null, change: (place: unknown[]) => unknown[]): string {
  const place = JSON.parse(Buffer.from(cursor!, 'base64url').toString()) as unknown[];
  const question = place.pop();
  return Buffer.from(JSON.stringify([...change(place), question])).toString('base64url');
}

const ID = '7f3d1c1e-0000-4000-8000-000000000000';

/** The log after a position that a caller made up. */
async function logAfter(...place: string[]) {
  await engine.rollups.daily.run.mutate({ date: '2026-03-01' });
  const { nextCursor } = await engine.jobs.log.query({ limit: 1 });
  return engine.jobs.log.query({ limit: 1, cursor: changed(nextCursor, () => place) });
}

test.each([
  ['no id', ['2026-03-01T00:00:00.000Z', '-'.repeat(36)]],
  ['a day that does not exist', ['2026-02-30T00:00:00Z', ID]],
  ['nothing', []],
])('a cursor of the log that has %s in it is refused', async (_, place) => {
  await expect(logAfter(...place)).rejects.toMatchObject({ data: { code: 'INVALID_CURSOR' } });
});

test('a cursor of the log with a zone that the database has not is answered', async () => {
  expect((await logAfter('2026-03-01T00:00:00+23:59', ID)).rows).toEqual([]);
});

test.each([
  ['a text that the database cannot hold', (parts: unknown[]) => [parts[0], parts[1], 'a\u0000b', ...parts.slice(3)]],
  ['half of a character', (parts: unknown[]) => [parts[0], parts[1], '\ud800', ...parts.slice(3)]],
  ['a day that does not exist', (parts: unknown[]) => ['2026-02-30', ...parts.slice(1)]],
  ['a kind that does not exist', (parts: unknown[]) => [parts[0], 'x'.repeat(1000), ...parts.slice(2)]],
])('a cursor that was changed into %s is refused or answered', async (_, change) => {
  await append([{ merchant: 'a', date: '2026-03-01', tokens: '5' }]);
  await engine.rollups.daily.run.mutate({ date: '2026-03-01' });
  const question = { startDate: '2026-03-01', endDate: '2026-03-01', limit: 1 };
  const { nextCursor } = await engine.rollups.daily.list.query(question);
  const code = await engine.rollups.daily.list.query({ ...question, cursor: changed(nextCursor, change) }).then(
    () => 'answered',
    (error) => error.data.code,
  );
  expect(['answered', 'INVALID_CURSOR']).toContain(code);
});

test('the pages of the first week of all go on', async () => {
  await append([
    { merchant: 'a', date: '1000-01-01', user: 'u1' },
    { merchant: 'b', date: '1000-01-01', user: 'u2' },
  ]);
  const range = { startDate: '1000-01-01', endDate: '1000-01-01' };
  await engine.rollups.weekly.backfill.mutate(range);
  expect((await all('weekly', range)).length).toBeGreaterThan(7);
});

test('a cursor continues its own query only, with pages of any size', async () => {
  await append([{ merchant: 'a', date: '2026-03-01', tokens: '5' }]);
  await engine.rollups.daily.run.mutate({ date: '2026-03-01' });
  const question = { startDate: '2026-03-01', endDate: '2026-03-01', limit: 1 };
  const { nextCursor } = await engine.rollups.daily.list.query(question);
  await expect(
    engine.rollups.daily.list.query({ ...question, endDate: '2026-03-02', cursor: nextCursor! }),
  ).rejects.toMatchObject({ data: { code: 'INVALID_CURSOR' } });
  const { rows } = await engine.rollups.daily.list.query({ ...question, limit: 100 });
  const next = await engine.rollups.daily.list.query({ ...question, limit: 2, cursor: nextCursor! });
  expect(next.rows).toEqual(rows.slice(1, 3));
});
