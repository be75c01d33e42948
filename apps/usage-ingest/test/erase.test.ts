import { addDays, dayOf, monthOf } from '@tally/contracts';
import { runsOf } from '@tally/testkit';
import fc from 'fast-check';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Fixture, startIngest } from './ingest-fixture.ts';

const RUNS = runsOf({ short: 3, long: 8 });
/** Not behind the clock of Redis, which would drop totals too early. */
const TODAY = addDays(dayOf(Date.now()), 1);

let ingest: Fixture;
let postgres: pg.Client;
let merchants = 0;

beforeAll(async () => {
  ingest = await startIngest();
  ingest.clock.now = Date.parse(`${TODAY}T12:00:00Z`);
  postgres = new pg.Client({ connectionString: ingest.databaseUrl });
  await postgres.connect();
  await ingest.admin.meters.create.mutate({
    ...{ key: 'images_by_user', aggregation: 'SUM', metricType: 'images', dimensions: ['model', 'user'] },
  });
  await ingest.admin.meters.create.mutate({ key: 'users', aggregation: 'UNIQUE', valueProperty: 'user' });
});
afterAll(async () => {
  await postgres.end();
  await ingest.close();
});

const rows = async (text: string, values: unknown[] = []) => (await postgres.query(text, values)).rows;

/** Returns tables with a row whose text contains `needle`, in any column. */
async function tablesWith(needle: string): Promise<string[]> {
  const tables = await rows(`
    select relname as name from pg_class
    where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') and not relispartition`);
  const found: string[] = [];
  for (const { name } of tables) {
    const text = `select 1 from ${pg.escapeIdentifier(name)} as each where strpos(each::text, $1) > 0 limit 1`;
    if ((await rows(text, [needle])).length > 0) found.push(name);
  }
  return found.sort();
}

/** Returns keys of Redis whose name or content contains `needle`. */
async function keysWith(needle: string): Promise<string[]> {
  const { redis } = ingest;
  if ('nodes' in redis) throw new Error('of one Redis');
  const found: string[] = [];
  for (const key of await redis.keys('*')) {
    const read: Record<string, () => Promise<unknown>> = {
      none: async () => null,
      string: () => redis.get(key),
      hash: () => redis.hgetall(key),
      set: () => redis.smembers(key),
      zset: () => redis.zrange(key, '0', '-1'),
      list: () => redis.lrange(key, 0, -1),
      stream: () => redis.xrange(key, '-', '+'),
    };
    if (`${key} ${JSON.stringify(await read[await redis.type(key)]!())}`.includes(needle)) found.push(key);
  }
  return found;
}

const balanced = async (merchantId: string) => {
  const startDate = addDays(TODAY, -60);
  const report = await ingest.admin.reconcile.check.query({ startDate, endDate: TODAY, merchantIds: [merchantId] });
  return report.drift;
};

test('a user is gone from every table and from Redis, and all numbers stay', async () => {
  const [merchantId, ada, bob] = ['erasing', 'ada-lovelace', 'bob-brown'];
  const { admin, db, redis } = ingest;
  const event = (id: string, userId: string, date = TODAY) => ({
    ...{ id, merchantId, userId, model: 'm', time: `${date}T11:00:00Z`, metrics: { images: '3', cost: '0.5' } },
  });
  const old = addDays(TODAY, -32);
  await admin.prices.set.mutate({ merchantId, component: 'input', amount: '1', validFrom: '2020-01-01T00:00:00Z' });
  await admin.usage.record.mutate({ entries: [event('a', ada), event('b', bob), event('c', ada, old)] });
  await admin.usage.record.mutate({ entries: [{ ...event('priced', ada, old), metrics: { prompt_tokens: '1' } }] });
  await admin.flush.run.mutate({});
  // The same id with other content, and an event that Postgres rejected.
  await db.journal.append({
    source: 'direct',
    lines: [
      { ...{ merchant_id: merchantId, date: TODAY, id: 'a', time: Date.parse(TODAY) }, user_id: ada, origin: 'x' },
    ],
  });
  await db.journal.addDeadLetter(
    { ...{ merchant_id: merchantId, date: TODAY, id: 'dead', time: 1, user_id: ada }, origin: 'direct' },
    { code: '22003', message: 'too large' },
  );
  await admin.usage.adjust.mutate({
    ...{ id: 'adjusted', merchantId, date: TODAY, metrics: { cost: '-0.25' }, reason: 'credit' },
    dimensions: { userId: ada },
  });
  await ingest.derive.run();
  await ingest.deriveMeters.run();
  // As if today and its year were over.
  await db.meters.fold(addDays(TODAY, 400), 0, 100);
  await db.days.rebuild([{ date: old, status: 'complete' }], { onlyStale: false });
  await db.days.importFlat([
    {
      date: '2025-01-01',
      byUser: JSON.stringify({ [ada]: { totalRequests: '1' } }),
      byModel: null,
      byProvider: null,
      status: 'complete',
    },
  ]);
  await db.directory.upsert([
    { kind: 'user', id: ada, merchantId, name: 'Ada L.', email: 'ada@example.com', role: null },
    { kind: 'user', id: ada, merchantId: null, name: 'Ada Lovelace', email: null, role: null },
    { kind: 'user', id: bob, merchantId, name: 'Bob', email: null, role: null },
  ]);
  await postgres.query(
    `insert into weekly_metrics (merchant_id, entity_type, entity_id, metric_type, period_start, period_end, value, daily_average)
     values ($1, 'user', $2, 'requests', '2025-06-02', '2025-06-08', 2, 0)`,
    [merchantId, ada],
  );
  // Waits in Redis while the user is erased.
  await admin.usage.record.mutate({ entries: [event('waiting', ada)] });
  expect(await keysWith(ada)).not.toEqual([]);
  const sums = `select (select sum(cost) from usage_daily where merchant_id = $1) as daily,
    (select sum(cost) from usage_yearly where merchant_id = $1) as yearly,
    (select sum(value) from meter_months as m where merchant_id = $1) as meters`;
  const [before] = await rows(sums, [merchantId]);

  const { pseudonym, complete } = await admin.users.erase.mutate({ merchantId, userId: ada });
  expect(complete).toBe(true);
  expect(await tablesWith(ada)).toEqual([]);
  expect(await tablesWith('Ada L')).toEqual([]);
  expect(await tablesWith(pseudonym)).toEqual([
    ...['audit_log', 'daily_usage_cache', 'erased_users', 'meter_days', 'meter_months', 'meter_quarters'],
    ...[
      'meter_trimesters',
      'meter_years',
      'usage_adjustments',
      'usage_admitted_values',
      'usage_conflicts',
      'usage_daily',
      'usage_dead_letters',
    ],
    ...['usage_events', 'usage_monthly', 'usage_platform_users', 'usage_priced'],
    ...['usage_quarter_months', 'usage_yearly', 'weekly_metrics'],
  ]);
  expect(await keysWith(ada)).toEqual([]);
  expect(await redis.exists(`usage:${merchantId}:${TODAY}:images`)).toBe(1);
  const [after] = await rows(sums, [merchantId]);
  // The event that waited came meanwhile.
  expect(after).toEqual({ ...before, daily: String(Number(before.daily) + 500_000_000) });
  expect(await balanced(merchantId)).toEqual([]);
  const { entries } = await admin.usage.explain.query({
    ...{ merchantId, date: TODAY, metricType: 'images', userIds: [pseudonym] },
  });
  expect(entries.map(({ id }) => id).sort()).toEqual(['a', 'waiting']);
  const audited = await admin.audit.list.query({ action: 'users.erase' });
  expect(audited.rows[0]).toMatchObject({ input: { merchantId, userId: pseudonym }, outcome: 'ok' });
  expect(await db.directory.find({ kind: 'user', ids: [ada, bob], merchantIds: [merchantId] })).toHaveLength(1);
  // A repeated copy is the same event; a new event gets the same pseudonym.
  const again = await admin.usage.record.mutate({ entries: [event('a', ada), event('later', ada)] });
  expect(again).toMatchObject({ accepted: 1, duplicates: 1, rejected: [] });
  await db.journal.append({
    source: 'direct',
    lines: [
      { ...{ merchant_id: merchantId, date: TODAY, id: 'direct', time: Date.parse(TODAY) }, user_id: ada, origin: 'y' },
    ],
  });
  await admin.usage.adjust.mutate({
    ...{ id: 'adjusted', merchantId, date: TODAY, metrics: { cost: '-0.25' }, reason: 'credit' },
    dimensions: { userId: ada },
  });
  await admin.flush.run.mutate({});
  expect(await tablesWith(`,${ada}`)).toEqual([]);
  expect((await admin.users.erase.mutate({ merchantId, userId: ada })).pseudonym).toBe(pseudonym);
  expect(await tablesWith(ada)).toEqual([]);
  expect(await balanced(merchantId)).toEqual([]);
});

test('a user with an active budget or meter is not erased until that is removed', async () => {
  const { admin } = ingest;
  const [merchantId, userId] = ['budgeted', 'carla'];
  const { id } = await admin.budgets.create.mutate({
    ...{ scope: { merchantId, userId }, measure: 'cost', limit: '5', period: 'month', enforcement: 'soft' },
  });
  await admin.meters.create.mutate({ key: 'of_carla', merchantId, aggregation: 'COUNT', filters: { user: [userId] } });
  await expect(admin.users.erase.mutate({ merchantId, userId })).rejects.toMatchObject({
    data: {
      code: 'CONFLICT',
      details: {
        blockers: [
          { kind: 'budget', name: id },
          { kind: 'meter', name: 'of_carla' },
        ],
      },
    },
  });
  await admin.budgets.remove.mutate({ id });
  await admin.meters.remove.mutate({ key: 'of_carla', merchantId });
  expect(await admin.users.erase.mutate({ merchantId, userId })).toMatchObject({ complete: true });
  expect(await rows('select 1 from budgets where user_id = $1', [userId])).toEqual([]);
});

type Step =
  | { do: 'record'; user: number; day: number; amount: number }
  | { do: 'adjust'; user: number; day: number }
  | { do: 'flush' }
  | { do: 'derive' }
  | { do: 'meters' }
  | { do: 'rebuild' }
  | { do: 'erase'; user: number; slices: number };
const user = fc.integer({ min: 0, max: 2 });
const day = fc.integer({ min: 0, max: 30 });
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 4, arbitrary: fc.record({ do: fc.constant('record' as const), user, day, amount: fc.nat(50) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('adjust' as const), user, day }) },
  {
    weight: 3,
    arbitrary: fc.constantFrom<Step>({ do: 'flush' }, { do: 'derive' }, { do: 'meters' }, { do: 'rebuild' }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ do: fc.constant('erase' as const), user, slices: fc.integer({ min: 1, max: 12 }) }),
  },
);

test('whenever users are erased and wherever that is cut off, each keeps its numbers under one name', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 25 }), async (steps) => {
      const merchantId = `m${merchants++}`;
      const users = [0, 1, 2].map((n) => `${merchantId}-user-${n}`);
      const names = [...users];
      const images = [0, 0, 0];
      const { admin, db } = ingest;
      const eraseUntil = async (n: number, isOver: () => boolean) => {
        const erasure = await db.erasures.begin({ merchantId, userId: users[n]!, everywhere: true }, 'test');
        names[n] = erasure.pseudonym;
        return db.erasures.run(erasure, isOver);
      };
      for (const [at, each] of steps.entries()) {
        const dateOf = (ago: number) => addDays(TODAY, -ago);
        if (each.do === 'record') {
          images[each.user]! += each.amount;
          const entry = { id: `e${at}`, merchantId, userId: users[each.user]!, time: `${dateOf(each.day)}T10:00:00Z` };
          await admin.usage.record.mutate({ entries: [{ ...entry, metrics: { images: `${each.amount}` } }] });
        } else if (each.do === 'adjust') {
          images[each.user]! -= 1;
          const adjustment = {
            id: `a${at}`,
            merchantId,
            date: dateOf(each.day),
            metrics: { images: '-1' },
            reason: 'r',
          };
          await admin.usage.adjust.mutate({ ...adjustment, dimensions: { userId: users[each.user]! } });
        } else if (each.do === 'flush') await admin.flush.merchant.mutate({ merchantId });
        else if (each.do === 'derive') await ingest.derive.run();
        else if (each.do === 'meters') await ingest.deriveMeters.run();
        else if (each.do === 'rebuild') await db.rebuild.merchant(merchantId, dateOf(30), TODAY);
        else {
          let left = each.slices;
          await eraseUntil(each.user, () => --left <= 0);
        }
      }
      await admin.flush.merchant.mutate({ merchantId });
      for (const n of [0, 1, 2]) {
        if (names[n] === users[n]) continue;
        expect(await eraseUntil(n, () => false)).toMatchObject({ complete: true });
      }
      await ingest.derive.run();
      await ingest.deriveMeters.run();
      const byUser = async (text: string) =>
        Object.fromEntries((await rows(text, [merchantId])).map((row) => [row.user_id, Number(row.sum)]));
      const expected = (amounts: number[]) =>
        Object.fromEntries(names.map((name, n) => [name, amounts[n]!]).filter(([, amount]) => amount !== 0));
      const counted = [0, 1, 2].map((n) => steps.filter((each) => each.do === 'record' && each.user === n).length);
      for (const table of ['usage_daily', 'usage_events'])
        expect(
          await byUser(`select user_id, sum(requests) from ${table} where merchant_id = $1 group by 1`),
          table,
        ).toEqual(expected(counted));
      const months = `select user_id, sum(requests) from %s where merchant_id = $1 group by 1 having sum(requests) <> 0`;
      const monthly = await byUser(months.replace('%s', 'usage_monthly'));
      expect(monthly).toEqual(await byUser(months.replace('%s', 'usage_yearly')));
      const { startDate } = monthOf(TODAY);
      const meter = (await db.meters.find({ key: 'images_by_user', merchantId: '' }))!;
      const read = await db.meters.read(meter, {
        starts: [Date.parse(`${addDays(startDate, -40)}T00:00:00Z`)],
        end: Date.parse(`${addDays(TODAY, 1)}T00:00:00Z`),
        ...{ groupBy: ['user'], filters: {}, limit: 100, merchantIds: [merchantId] },
      });
      const metered = read.map(({ group, value }) => [group[0], Number(value)]).filter(([, value]) => value !== 0);
      expect(Object.fromEntries(metered)).toEqual(expected(images));
      const erased = users.filter((name, n) => names[n] !== name);
      for (const name of erased) expect(await tablesWith(name)).toEqual([]);
      expect(await balanced(merchantId)).toEqual([]);
    }),
    { numRuns: RUNS },
  );
}, 520_000);
