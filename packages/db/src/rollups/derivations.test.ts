import { readFile } from 'node:fs/promises';
import { eachDay, quarterMonthOf } from '@tally/contracts';
import { type FreshStore, freshDatabase, runsOf } from '@tally/testkit';
import fc from 'fast-check';
import pg from 'pg';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { files } from '../../sql/generate.mjs';
import { columnsOfReratings } from '../journal/line-columns.ts';
import { type Db, openDb } from '../open-db.ts';
import { migrate } from '../schema.ts';
import type { Scope } from './scope.ts';
import type { UsageReader } from './usage-reader.ts';

const RUNS = runsOf({ short: 6, long: 20 });

let store: FreshStore;
let db: Db;
let client: pg.Client;

beforeAll(async () => {
  store = await freshDatabase(migrate);
  db = await openDb(store.url, { poolSize: 20 });
  client = new pg.Client({ connectionString: store.url });
  await client.connect();
});
beforeEach(empty);
afterAll(async () => {
  await client.end();
  await db.close();
  await store.drop();
});

const TABLES = [
  ...[
    'usage_events',
    'usage_adjustments',
    'usage_daily',
    'usage_quarter_hours',
    'merchant_usage',
    'usage_daily_models',
  ],
  ...['usage_monthly', 'usage_quarter_months', 'usage_monthly_models', 'usage_yearly', 'usage_platform_daily'],
  ...['usage_platform_monthly', 'usage_platform_users', 'usage_flushes', 'usage_flush_sums', 'usage_rollup_rows'],
  ...['usage_touched_days', 'usage_changes', 'usage_stale_totals', 'usage_closed_days', 'usage_journal_closings'],
];

async function empty(): Promise<void> {
  // Of few rows: `truncate` makes new files for every table and index, which costs fifty times as much.
  await client.query(TABLES.map((table) => `delete from ${table}`).join('; '));
  await openFrom(DAYS[0]!);
}

/** The first day that is not rolled up. */
const openFrom = (date: string) =>
  client.query(
    `update usage_rolled_up
     set date = $1, merchant_id = '', quarter_month = usage_quarter_month($1), quarter_merchant = ''`,
    [date],
  );

/** Like a database that was upgraded: no quarter of a month is complete. */
async function forgetQuarters(): Promise<void> {
  await client.query(`update usage_rolled_up set quarter_month = '0001-01-01', quarter_merchant = ''`);
  await client.query('delete from usage_quarter_months');
  await client.query(`delete from usage_rollup_rows where rollup = 'usage_quarter_months'`);
}

async function deriveAll(): Promise<void> {
  while ((await db.derivations.derive(1_000)).flushes > 0);
  while (await db.derivations.rollUp('2026-03-02', 1_000));
  while (await db.derivations.computeQuarters(1_000));
}

// The plain model: a list of counted events. It shares only the names of columns with the code under test.

const MEASURES = ['requests', 'failed_requests', 'prompt_tokens', 'completion_tokens', 'cost'] as const;
const DAYS = [
  '2025-12-30',
  '2025-12-31',
  '2026-01-01',
  '2026-01-31',
  '2026-02-01',
  '2026-02-14',
  '2026-02-28',
  '2026-03-01',
];
const MERCHANTS = ['ada', 'bob', 'eve'];
const USERS = ['u1', 'u2', 'u3'];
const MODELS = ['m1', 'm2'];

type Counted = {
  merchant_id: string;
  date: string;
  user_id: string;
  model: string;
  amounts: Record<(typeof MEASURES)[number], bigint>;
};

const amount = fc.oneof(fc.bigInt({ min: 0n, max: 20n }), fc.constantFrom(9_007_199_254_740_993n, 10n ** 15n));
const counted = fc.record({
  merchant_id: fc.constantFrom(...MERCHANTS),
  date: fc.constantFrom(...DAYS),
  user_id: fc.constantFrom('', ...USERS),
  model: fc.constantFrom('', ...MODELS),
  amounts: fc.record({
    requests: fc.bigInt({ min: 0n, max: 3n }),
    failed_requests: fc.bigInt({ min: 0n, max: 1n }),
    prompt_tokens: amount,
    completion_tokens: amount,
    cost: amount,
  }),
});
/** Its content follows from its number, like a producer's retry. */
const lines = fc.array(fc.record({ id: fc.integer({ min: 0, max: 40 }), what: counted }), {
  minLength: 1,
  maxLength: 8,
});

type Op =
  | { do: 'append'; lines: { id: number; what: Counted }[]; bySums: boolean }
  | { do: 'adjust'; what: Counted; sign: bigint }
  | { do: 'rerate'; merchant: string; rows: Counted[] }
  | { do: 'derive'; events: number; at: number }
  | { do: 'roll up'; before: string; rows: number; slices: number; at: number }
  | { do: 'rebuild'; merchant: string; from: number; to: number }
  | { do: 'rebuild platform' }
  | { do: 'forget quarters' }
  | { do: 'compute quarters'; rows: number; slices: number; at: number };

const op: fc.Arbitrary<Op> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ do: fc.constant('append' as const), lines, bySums: fc.boolean() }) },
  {
    weight: 2,
    arbitrary: fc.record({ do: fc.constant('adjust' as const), what: counted, sign: fc.constantFrom(1n, -1n) }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('rerate' as const),
      merchant: fc.constantFrom(...MERCHANTS),
      rows: fc.array(counted, { minLength: 1, maxLength: 5 }),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('derive' as const),
      events: fc.constantFrom(1, 5, 1000),
      at: fc.constantFrom(1, 3),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('roll up' as const),
      before: fc.constantFrom(...DAYS),
      rows: fc.constantFrom(1, 3, 1000),
      slices: fc.integer({ min: 1, max: 8 }),
      at: fc.constantFrom(1, 2),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('rebuild' as const),
      merchant: fc.constantFrom(...MERCHANTS),
      from: fc.integer({ min: 0, max: DAYS.length - 1 }),
      to: fc.integer({ min: 0, max: DAYS.length - 1 }),
    }),
  },
  { weight: 1, arbitrary: fc.constant({ do: 'rebuild platform' as const }) },
  { weight: 1, arbitrary: fc.constant({ do: 'forget quarters' as const }) },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('compute quarters' as const),
      rows: fc.constantFrom(1, 3, 1000),
      slices: fc.integer({ min: 1, max: 8 }),
      at: fc.constantFrom(1, 2),
    }),
  },
);

class World {
  readonly counted: Counted[] = [];
  readonly ids = new Set<string>();
  serial = 0;

  async take(step: Op): Promise<void> {
    if (step.do === 'append') return this.append(step.lines, step.bySums);
    if (step.do === 'adjust') return this.adjust(step.what, step.sign);
    if (step.do === 'rerate') return this.rerate(step.merchant, step.rows);
    if (step.do === 'forget quarters') return forgetQuarters();
    if (step.do === 'rebuild platform') return db.rebuild.platform(DAYS[0]!, DAYS.at(-1)!);
    if (step.do === 'rebuild') {
      const [from, to] = [step.from, step.to].sort();
      await db.rebuild.merchant(step.merchant, DAYS[from!]!, DAYS[to!]!);
      return;
    }
    if (step.do === 'roll up' || step.do === 'compute quarters') {
      const one = () =>
        step.do === 'roll up'
          ? db.derivations.rollUp(step.before, step.rows)
          : db.derivations.computeQuarters(step.rows);
      const some = async () => {
        for (let slice = 0; slice < step.slices; slice++) await one();
      };
      await Promise.all(Array.from({ length: step.at }, some));
      return;
    }
    await Promise.all(Array.from({ length: step.at }, () => db.derivations.derive(step.events)));
  }

  /** `bySums`: false for a flush of an earlier release, which has no sums. */
  async append(wanted: { id: number; what: Counted }[], bySums = true): Promise<void> {
    const batch = this.serial++;
    const lines = wanted.map(({ id, what: { amounts, user_id, model, merchant_id, date } }, position) => ({
      ...{ merchant_id, date, id: `e${id}`, time: Date.parse(`${date}T10:00:00Z`), origin: `b${batch}:${position}` },
      ...(user_id && { user_id }),
      ...(model && { model }),
      ...Object.fromEntries(MEASURES.map((name) => [name, String(amounts[name])])),
    }));
    const { flushes } = await db.journal.append({ source: 'stream', lines });
    if (!bySums) {
      await client.query('delete from usage_flush_sums where flush_id = any($1)', [flushes]);
      await client.query('update usage_flushes set summed = false where id = any($1)', [flushes]);
    }
    for (const { id, what } of wanted) {
      const identity = `${what.merchant_id} ${what.date} e${id}`;
      if (!this.ids.has(identity)) this.counted.push(what);
      this.ids.add(identity);
    }
  }

  async adjust(what: Counted, sign: bigint): Promise<void> {
    const amounts = Object.fromEntries(MEASURES.map((name) => [name, sign * what.amounts[name]])) as Counted['amounts'];
    await db.corrections.adjust(this.adjustmentOf({ ...what, amounts }));
    this.counted.push({ ...what, amounts });
  }

  /** Prices several days of a merchant again in one transaction. */
  async rerate(merchant: string, rows: readonly Counted[]): Promise<void> {
    const own = rows.map((row) => ({ ...row, merchant_id: merchant, amounts: { ...zero(), cost: row.amounts.cost } }));
    const reratings = own.map(({ date, user_id, model, amounts }) => {
      const key = { user_id, api_key: '', model, provider: '', call_size: 0 };
      return { ...key, date, reratings: this.serial++, difference: amounts.cost };
    });
    const columns = columnsOfReratings(reratings);
    const about = { reason: 'a test', actor: 'test' };
    expect(await db.corrections.rerate(merchant, columns, about)).toBe(own.length);
    expect(await db.corrections.rerate(merchant, columns, about)).toBe(0);
    this.counted.push(...own);
  }

  private adjustmentOf({ merchant_id: merchantId, date, user_id: userId, model, amounts }: Counted) {
    return {
      ...{ id: `a${this.serial++}`, merchantId, date, reason: 'a test', actor: 'test' },
      dimensions: { userId, apiKey: '', model, provider: '' },
      amounts: new Map(Object.entries(amounts)),
    };
  }

  /** Sums by a column, without those that are all zero. */
  sums(from: string, to: string, by: 'merchant_id' | 'user_id' | 'model' | 'date', merchants?: readonly string[]) {
    const groups = new Map<string, Counted['amounts']>();
    for (const each of this.counted) {
      if (each.date < from || each.date > to || (merchants && !merchants.includes(each.merchant_id))) continue;
      const sum = groups.get(each[by]) ?? zero();
      for (const name of MEASURES) sum[name] += each.amounts[name];
      groups.set(each[by], sum);
    }
    return new Map([...groups].filter(([, sum]) => MEASURES.some((name) => sum[name] !== 0n)));
  }
}

const zero = () => ({ requests: 0n, failed_requests: 0n, prompt_tokens: 0n, completion_tokens: 0n, cost: 0n });
const COLUMN = { merchant: 'merchant_id', user: 'user_id', model: 'model' } as const;

type Cube = Scope['parts'][number]['cube'];
/** Each derived rollup, with ranges of whole periods, and its groupings. */
const DERIVED: { cube: Cube; ranges: [string, string][]; by: (keyof typeof COLUMN)[]; platform?: true }[] = [
  { cube: 'usage_daily_models', ranges: [['2025-12-31', '2026-02-14']], by: ['merchant', 'model'] },
  { cube: 'usage_monthly', ranges: [['2025-12-01', '2026-01-31']], by: ['merchant', 'user', 'model'] },
  {
    cube: 'usage_quarter_months',
    ranges: [
      ['2025-12-23', '2026-02-08'],
      ['2026-02-09', '2026-02-15'],
    ],
    by: ['merchant', 'user', 'model'],
  },
  { cube: 'usage_monthly_models', ranges: [['2026-01-01', '2026-02-28']], by: ['merchant', 'model'] },
  { cube: 'usage_yearly', ranges: [['2026-01-01', '2026-12-31']], by: ['merchant', 'user', 'model'] },
  { cube: 'usage_platform_daily', ranges: [['2025-12-31', '2026-02-14']], by: ['model'], platform: true },
  { cube: 'usage_platform_monthly', ranges: [['2026-02-01', '2026-03-31']], by: ['model'], platform: true },
  { cube: 'usage_platform_users', ranges: [['2025-12-01', '2026-02-28']], by: ['user'], platform: true },
];

/** The merchants of the queries by which rollups are compared with the model. */
const SCOPES = [undefined, ['ada'], ['bob', 'eve']] as const;

async function compare(world: World, scopes: readonly (typeof SCOPES)[number][] = SCOPES): Promise<void> {
  for (const { cube, ranges, by: groupings, platform } of DERIVED) {
    for (const [startDate, endDate] of ranges) {
      const parts = [{ cube, startDate, endDate }];
      for (const by of groupings) {
        for (const merchantIds of platform ? [undefined] : scopes) {
          const question = { by, sortBy: 'key', order: 'asc', limit: 100, parts, merchantIds } as const;
          const { rows } = await db.usage.breakdown({ ...question, merchantIds: merchantIds && [...merchantIds] });
          const wanted = world.sums(startDate, endDate, COLUMN[by], merchantIds);
          const found = rows.map(({ keys: [key], ...row }) => [
            key === 'unknown' ? '' : key,
            Object.fromEntries(MEASURES.map((name) => [name, row[name]])),
          ]);
          expect(new Map(found as [string, object][]), `${cube} by ${by} of ${merchantIds ?? 'all'}`).toEqual(wanted);
        }
      }
      if (groupings.includes('user') && !platform) {
        const users = MERCHANTS.flatMap((merchant) => [...world.sums(startDate, endDate, 'user_id', [merchant])]);
        const active = users.filter(([user, sum]) => user && sum.requests > 0n);
        expect(await db.usage.activeUsers({ parts }), cube).toBe(active.length);
      }
    }
  }
  const range = { startDate: '2026-01-01', endDate: '2026-03-31' };
  expect(await db.storedForms.periodsApart(range)).toEqual([]);
  const days = await db.usage.byDay({ parts: [{ cube: 'usage_platform_daily', ...range }] });
  const byDay = new Map(days.map(({ date, ...sums }) => [date, sums]));
  for (const [date, sums] of world.sums(range.startDate, range.endDate, 'date')) expect(byDay.get(date)).toEqual(sums);
}

test('every derived rollup equals a plain model at every moment of random histories', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(op, { minLength: 1, maxLength: 10 }), async (history) => {
      await empty();
      const world = new World();
      for (const [index, step] of history.entries()) {
        await world.take(step);
        // Every scope after each step would triple the time; the end has them all.
        await compare(world, [SCOPES[index % SCOPES.length]]);
      }
      await deriveAll();
      await compare(world);
      expect(await db.derivations.lag()).toMatchObject({ flushes: 0, events: 0, oldestMs: 0 });
      expect((await client.query('select from usage_flush_sums')).rowCount).toBe(0);
    }),
    { numRuns: RUNS },
  );
}, 950_000);

test('adjustments of several days reach months and years only of days that are rolled up', async () => {
  const world = new World();
  const of = (date: string, user_id: string): Counted => ({
    ...{ merchant_id: 'ada', date, user_id, model: 'm1' },
    amounts: { ...zero(), requests: 1n, cost: 7n },
  });
  await world.append(['2026-01-31', '2026-02-28', '2026-03-01'].map((date, id) => ({ id, what: of(date, 'u1') })));
  await db.derivations.derive(1_000);
  while (await db.derivations.rollUp('2026-02-14', 1_000));
  await world.rerate('ada', [of('2026-01-31', 'u1'), of('2026-01-31', 'u2'), of('2026-02-28', 'u2')]);
  await compare(world);
  await deriveAll();
  await compare(world);
});

const rowsOf = async (table: string) => {
  const { rows } = await client.query(`select * from ${table}`);
  return rows.map((row) => JSON.stringify(row)).sort();
};

test('the rows of months and years are counted as they are derived, and again by a rebuild', async () => {
  const rows = async () => {
    const { rows } = await client.query(`
      select merchant_id, rollup, period::text, rows::int from usage_rollup_rows where rows <> 0 order by 1, 2, 3`);
    return rows;
  };
  const real = async () => {
    const { rows } = await client.query(`
      select merchant_id, rollup, period::text, count(*)::int as rows
      from (
        select merchant_id, 'usage_monthly' as rollup, month as period from usage_monthly
        union all
        select '', 'usage_monthly', month from usage_monthly
        union all
        select merchant_id, 'usage_quarter_months', quarter_month from usage_quarter_months
        union all
        select '', 'usage_quarter_months', quarter_month from usage_quarter_months
        union all
        select merchant_id, 'usage_yearly', year from usage_yearly
        union all
        select '', 'usage_yearly', year from usage_yearly
      ) as known
      group by 1, 2, 3
      order by 1, 2, 3`);
    return rows;
  };
  const world = new World();
  const of = (merchant_id: string, date: string, user_id: string) => ({
    ...{ merchant_id, date, user_id, model: 'm1' },
    amounts: { ...zero(), requests: 1n },
  });
  for (const [id, user] of ['u1', 'u1', 'u2'].entries()) {
    await world.append([{ id, what: of('ada', '2026-01-01', user) }]);
    await world.append([{ id, what: of('bob', '2026-02-14', user) }]);
    await db.derivations.derive(1);
  }
  await world.adjust(of('ada', '2026-01-31', 'u3'), 1n);
  await deriveAll();
  expect(await rows()).toEqual(await real());
  expect(
    await db.usage.rows({ ranges: [{ startDate: '2026-01-05', endDate: '2026-02-14' }], merchantIds: ['bob'] }),
  ).toEqual({
    years: new Map([['2026-01-01', 2]]),
    months: new Map([['2026-02-01', 2]]),
    quarterMonths: new Map([['2026-02-09', 2]]),
    quartersTo: '2026-02-16',
    requests: new Map([['2026-02-14', 3]]),
  });
  expect((await db.usage.rows({ ranges: [{ startDate: '2026-01-05', endDate: '2026-01-06' }] })).months).toEqual(
    new Map([
      ['2026-01-01', 3],
      ['2026-02-01', 2],
    ]),
  );
  // An open day has at most as many rows as requests, and is estimated as no larger than the month before it.
  await world.append([3, 4, 5].map((id) => ({ id, what: of('bob', '2026-03-05', `u${id}`) })));
  expect(
    await db.usage.rows({ ranges: [{ startDate: '2026-02-14', endDate: '2026-03-05' }], merchantIds: ['bob'] }),
  ).toEqual({
    years: new Map([['2026-01-01', 4]]),
    months: new Map([
      ['2026-02-01', 2],
      ['2026-03-01', 2],
    ]),
    quarterMonths: new Map([['2026-02-09', 2]]),
    quartersTo: '2026-02-16',
    requests: new Map([
      ['2026-02-14', 3],
      ['2026-03-05', 3],
    ]),
  });
  await client.query('update usage_rollup_rows set rows = 77 where merchant_id = $1', ['ada']);
  await client.query(`delete from usage_rollup_rows where merchant_id = ''`);
  for (const merchant of ['ada', 'bob']) await db.rebuild.merchant(merchant, '2026-01-01', '2026-02-28');
  expect((await rows()).filter(({ merchant_id }) => merchant_id)).toEqual(
    (await real()).filter(({ merchant_id }) => merchant_id),
  );
});

test('the quarters of months are the same in Postgres and in plans', async () => {
  const { rows } = await client.query(`
    select day::date::text as day, usage_quarter_month(day::date)::text as first
    from generate_series('2023-01-01'::date, '2024-12-31', '1 day') as day`);
  expect(rows).toEqual(
    eachDay('2023-01-01', '2024-12-31').map((day) => ({ day, first: quarterMonthOf(day).startDate })),
  );
});

test('quarters are computed once all their days are rolled up, the oldest first, a merchant at a time', async () => {
  const world = new World();
  const of = (merchant_id: string, date: string) => ({
    ...{ merchant_id, date, user_id: 'u1', model: 'm1' },
    amounts: { ...zero(), requests: 1n },
  });
  for (const [id, date] of ['2026-01-01', '2026-01-08', '2026-01-31', '2026-02-14'].entries())
    await world.append(['ada', 'bob'].map((merchant) => ({ id, what: of(merchant, date) })));
  while ((await db.derivations.derive(1_000)).flushes > 0);
  while (await db.derivations.rollUp('2026-02-15', 1_000));
  const computed = async () => {
    const found: [number, string][] = [];
    while (await db.derivations.computeQuarters(1)) {
      const { quartersTo } = await db.usage.rows({ ranges: [{ startDate: '2026-01-01', endDate: '2026-02-14' }] });
      found.push([(await rowsOf('usage_quarter_months')).length, quartersTo]);
      await compare(world);
    }
    return found;
  };
  // The quarter of 14 February ends on the 15th, which is open.
  const january = [
    ...[
      [1, '2026-01-01'],
      [2, '2026-01-01'],
      [2, '2026-01-09'],
    ],
    ...[
      [3, '2026-01-23'],
      [4, '2026-01-23'],
      [4, '2026-02-01'],
    ],
  ];
  expect(await computed()).toEqual(january);
  await openFrom('2026-03-02');
  await forgetQuarters();
  expect((await computed()).slice(0, 6)).toEqual(january);
  expect(await rowsOf('usage_quarter_months')).toHaveLength(6);
  // Later events are added to complete quarters as they are derived.
  await world.append([{ id: 9, what: of('eve', '2026-01-05') }]);
  await db.derivations.derive(1);
  expect(await rowsOf('usage_quarter_months')).toHaveLength(7);
  await compare(world);
});

test('the order and the size of derivations change no row', async () => {
  const tables = DERIVED.map(({ cube }) => cube);
  await fc.assert(
    fc.asyncProperty(fc.array(lines, { minLength: 2, maxLength: 6 }), async (batches) => {
      const derived: string[][][] = [];
      for (const way of ['one by one', 'at once', 'last', 'by three']) {
        await empty();
        const world = new World();
        for (const batch of way === 'last' ? batches.toReversed() : batches) {
          await world.append(batch);
          if (way !== 'one by one') continue;
          await db.derivations.derive(1);
          await db.derivations.rollUp('2026-03-02', 1);
        }
        if (way === 'by three') {
          let left: { flushes: number }[];
          do left = await Promise.all([1, 1, 1].map((events) => db.derivations.derive(events)));
          while (left.some(({ flushes }) => flushes > 0));
        }
        await deriveAll();
        // Only the first copy of an event counts, so the other order gives the same rows unless ids clash.
        const clash = new Set(batches.flat().map(({ id, what }) => `${what.merchant_id} ${what.date} ${id}`)).size;
        if (way === 'last' && clash < batches.flat().length) continue;
        derived.push(await Promise.all(tables.map(rowsOf)));
      }
      for (const other of derived) expect(other).toEqual(derived[0]);
    }),
    { numRuns: RUNS },
  );
}, 600_000);

test('all rollups agree in every snapshot while many append, correct, derive and rebuild', async () => {
  const days = eachDay('2026-01-01', '2026-03-01');
  let serial = 0;
  let running = true;
  const forever = async (work: () => Promise<unknown>) => {
    while (running) await work();
  };
  const some = <T>(list: readonly T[]) => list[serial++ % list.length]!;
  const append = () => {
    const batch = serial++;
    const lines = Array.from({ length: 20 }, (_, position) => {
      const date = some(days);
      const line = { merchant_id: some(MERCHANTS), date, id: `x${serial++}`, time: Date.parse(date) };
      return {
        ...line,
        user_id: some(USERS),
        model: some(MODELS),
        requests: '1',
        cost: '7',
        origin: `${batch}:${position}`,
      };
    });
    return db.journal.append({ source: 'direct', lines });
  };
  const adjust = () =>
    db.corrections.adjust({
      ...{
        id: `y${serial++}`,
        merchantId: some(MERCHANTS),
        date: some(days),
        reason: 'a test',
        actor: 'test',
      },
      dimensions: { userId: some(USERS), apiKey: '', model: some(MODELS), provider: '' },
      amounts: new Map([['cost', 3n]]),
    });
  const whole = { startDate: '2026-01-01', endDate: '2026-12-31' };
  let looks = 0;
  const look = () =>
    db.usage.snapshot(async (reader: UsageReader) => {
      const totals = (cube: Cube) => reader.totals({ parts: [{ cube, ...whole }] });
      const wanted = await totals('usage_daily');
      for (const { cube } of DERIVED) expect(await totals(cube), cube).toEqual(wanted);
      looks++;
    });
  const rebuild = () => db.rebuild.merchant(some(MERCHANTS), '2026-01-01', '2026-03-01');
  const rollUp = () => db.derivations.rollUp(days.at(-2)!, 5);
  const others = [
    append,
    append,
    append,
    adjust,
    () => db.derivations.derive(50),
    () => db.derivations.derive(30),
    rollUp,
    rollUp,
    rebuild,
  ];
  const stopping = Promise.all([...others, () => db.rebuild.platform('2026-01-01', '2026-03-01')].map(forever));
  try {
    while (looks < 60) await look();
  } finally {
    running = false;
    await stopping;
  }
  expect(await db.storedForms.periodsApart({ startDate: '2026-01-01', endDate: '2026-12-31' })).toEqual([]);
  while ((await db.derivations.derive(10_000)).flushes > 0);
  while (await db.derivations.rollUp(days.at(-1)!, 100));
  await look();
  expect(await db.storedForms.periodsApart({ startDate: '2026-01-01', endDate: '2026-12-31' })).toEqual([]);
});

test('a day is not rolled up while a derivation that found it open is under way', async () => {
  const world = new World();
  const what = { merchant_id: 'ada', date: '2026-01-31', user_id: 'u1', model: 'm1' };
  await world.append([{ id: 1, what: { ...what, amounts: { ...zero(), requests: 1n } } }]);
  await db.derivations.derive(10);
  await world.append([{ id: 2, what: { ...what, amounts: { ...zero(), requests: 2n } } }]);
  const watcher = new pg.Client({ connectionString: store.url });
  await watcher.connect();
  // On Citus a worker waits, with a session of its own.
  const sessions = process.env.CITUS_DATABASE_URL ? 'citus_stat_activity' : 'pg_stat_activity';
  const waiting = async () => {
    const { rows } = await watcher.query(
      `select count(*)::int as count from ${sessions} where datname = current_database() and wait_event_type = 'Lock'`,
    );
    return rows[0].count as number;
  };
  await client.query('begin');
  await client.query(`select from usage_daily_models where merchant_id = 'ada' for update`);
  const deriving = db.derivations.derive(10);
  await expect.poll(waiting).toBe(1);
  let isOver = false;
  const rollingUp = db.derivations.rollUp('2026-03-02', 10).then(() => {
    isOver = true;
  });
  await expect.poll(async () => isOver || (await waiting()) === 2).toBe(true);
  await client.query('commit');
  await Promise.all([deriving, rollingUp]);
  await watcher.end();
  await compare(world);
  await deriveAll();
  await compare(world);
});

test.each(DERIVED.map(({ cube }) => cube))('reconciliation sees that %s was changed', async (table) => {
  const world = new World();
  const what = {
    merchant_id: 'ada',
    date: '2026-02-14',
    user_id: 'u1',
    model: 'm1',
    amounts: { ...zero(), requests: 1n },
  };
  await world.append([{ id: 1, what }]);
  await deriveAll();
  const range = { startDate: '2026-02-14', endDate: '2026-02-14' };
  expect(await db.storedForms.periodsApart(range)).toEqual([]);
  await client.query(`update ${table} set requests = requests + 1`);
  const apart = await db.storedForms.periodsApart(range);
  const day = await db.journal.exclusively(['ada'], (transaction) => db.storedForms.read(range, transaction));
  const seen = table === 'usage_daily_models' ? day.map((row) => row.dailyModels) : apart.map((row) => row.whole);
  expect(seen).toContain(2n);
  await db.rebuild.merchant('ada', '2026-02-01', '2026-02-28');
  await db.rebuild.platform('2026-02-01', '2026-02-28');
  expect(await db.storedForms.periodsApart(range)).toEqual([]);
  await compare(world);
});

test('reconciliation sees that sums of a flush were changed, until it is derived', async () => {
  const what = { merchant_id: 'ada', date: '2026-02-14', user_id: 'u1', model: 'm1' };
  await new World().append([{ id: 1, what: { ...what, amounts: { ...zero(), requests: 1n } } }]);
  const range = { startDate: '2026-02-14', endDate: '2026-02-14' };
  expect(await db.storedForms.periodsApart(range)).toEqual([]);
  await client.query('update usage_flush_sums set requests = requests + 1');
  expect(await db.storedForms.periodsApart(range)).toMatchObject([
    { rollup: 'usage_flush_sums', parts: 1n, whole: 2n },
  ]);
  await deriveAll();
  expect(await db.storedForms.periodsApart(range)).toEqual([]);
});

test('sums of months, years and all merchants may pass 64 bits, and stop no derivation', async () => {
  const world = new World();
  const huge = { user_id: 'u1', model: 'm1', amounts: { ...zero(), cost: 9n * 10n ** 18n } };
  const dates = ['2026-01-01', '2026-01-31', '2026-02-01'];
  for (const merchant_id of MERCHANTS)
    for (const date of dates) await world.append([{ id: 1, what: { merchant_id, date, ...huge } }]);
  await compare(world);
  await deriveAll();
  await compare(world);
});

test('a day is closed only when all of it was derived, and its flushes are forgotten then', async () => {
  const world = new World();
  const of = (date: string) => ({ merchant_id: 'ada', date, user_id: '', model: '', amounts: { ...zero(), cost: 1n } });
  await world.append([{ id: 1, what: of('2026-01-01') }]);
  await world.append([{ id: 1, what: of('2026-02-14') }]);
  expect(await db.partitions.close('2026-01-01')).toBe(false);
  expect(await db.derivations.prune(100)).toBe(0);
  await db.derivations.derive(10);
  expect(await db.derivations.prune(100)).toBe(0);
  while ((await db.meters.derive(1_000)).flushes > 0);
  const { rows } = await client.query(
    `select inhrelid::regclass::text as name from pg_inherits where inhparent = 'usage_events'::regclass`,
  );
  for (const { name } of rows)
    if (name < 'usage_events_20260214') await db.partitions.close(name.slice(-8).replace(/(....)(..)(..)/, '$1-$2-$3'));
  expect(await db.partitions.isClosed('2026-01-01')).toBe(true);
  expect(await db.derivations.prune(100)).toBe(1);
  await compare(world);
});

test('two processes derive each flush once', async () => {
  const world = new World();
  const what = {
    merchant_id: 'ada',
    date: '2026-02-14',
    user_id: 'u1',
    model: 'm1',
    amounts: { ...zero(), requests: 1n },
  };
  for (let id = 0; id < 30; id++) await world.append([{ id, what }]);
  const derived = await Promise.all(Array.from({ length: 10 }, () => db.derivations.derive(5)));
  expect(derived.every(({ events }) => events <= 5)).toBe(true);
  while ((await db.derivations.derive(100)).flushes > 0);
  await compare(world);
});

test('the generated statements are those of the generator', async () => {
  for (const [name, text] of Object.entries(files()))
    expect(await readFile(new URL(`../../sql/${name}`, import.meta.url), 'utf8'), name).toBe(text);
});
