import { addDays, type Day, dayOf, type MeterDefinition } from '@tally/contracts';
import { runsOf } from '@tally/testkit';
import fc from 'fast-check';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createMeterCheck } from '../src/reconcile/meter-check.ts';
import { type Fixture, startIngest } from './ingest-fixture.ts';

const RUNS = runsOf({ short: 2, long: 4 });

let ingest: Fixture;
let sql: pg.Client;
let today: Day;
/** A day of the previous month, so that its month is over and folded. */
let before: Day;

const METERS: Omit<MeterDefinition, 'merchantId'>[] = [
  { key: 'images_sum', aggregation: 'SUM', metricType: 'images', dimensions: ['user', 'property:region'] },
  { key: 'calls', aggregation: 'COUNT', dimensions: ['user'] },
  { key: 'sessions', aggregation: 'UNIQUE', valueProperty: 'session' },
  { key: 'images_max', aggregation: 'MAX', metricType: 'images' },
  { key: 'images_min', aggregation: 'MIN', metricType: 'images', dimensions: ['property:region'] },
  { key: 'images_last', aggregation: 'LATEST', metricType: 'images', dimensions: ['user'] },
  { key: 'images_spread', aggregation: 'PERCENTILE', metricType: 'images' },
];
const TABLES = ['meter_quarters', 'meter_days', 'meter_months', 'meter_trimesters', 'meter_years'] as const;

beforeAll(async () => {
  ingest = await startIngest();
  sql = new pg.Client({ connectionString: ingest.databaseUrl });
  await sql.connect();
  ingest.clock.now = Date.parse(`${dayOf(Date.now())}T12:00:00Z`);
  today = dayOf(ingest.clock.now);
  before = addDays(`${today.slice(0, 7)}-01`, -1);
  for (const meter of METERS) await ingest.admin.meters.create.mutate(meter);
  await record(['acme', 'beta', 'gamma'], today);
  await record(['acme', 'beta'], before);
  await ingest.deriveMeters.run();
  await fold();
});
afterAll(async () => {
  await sql.end();
  await ingest.close();
});

let ids = 0;
async function record(merchantIds: readonly string[], day: Day) {
  const entries = merchantIds.flatMap((merchantId) =>
    [1, 2, 3].map((n) => ({
      ...{ id: `e${ids++}`, merchantId, time: `${day}T0${n}:1${n}:00Z`, userId: n === 2 ? 'ada' : 'bob' },
      metrics: { images: String(n * 7) },
      properties: { region: n === 1 ? 'eu' : 'us', session: `s${n % 2}` },
    })),
  );
  await ingest.admin.usage.record.mutate({ entries });
  await ingest.flush.drainAll();
}

/** Every rollup of meters, as text. */
async function stored() {
  const { rows } = await sql.query(
    TABLES.map((table) => `select to_jsonb(t)::text as row from ${table} t`).join(' union all '),
  );
  return rows.map(({ row }) => row as string).sort();
}
const check = async () => {
  const checks = [before, today].map((day) => ({ startDate: day, endDate: day }));
  const reports = [];
  for (const range of checks) reports.push(await ingest.admin.reconcile.check.query(range));
  return reports.flatMap(({ meters }) => meters);
};
/** As if all days and their years were over. */
const fold = async () => {
  while ((await ingest.db.meters.fold(addDays(today, 400), 0, 100)) > 0);
};

test(`finds and repairs any damaged row of a meter (${RUNS} random ones)`, async () => {
  const right = await stored();
  expect(await check()).toEqual([]);
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(...TABLES),
      fc.constantFrom('wrong', 'missing', 'extra'),
      fc.nat(),
      fc.boolean(),
      async (table, damage, pick, hourly) => {
        const { rows } = await sql.query(`select ctid::text as at, merchant_id, meter_id from ${table} order by ctid`);
        const { at, meter_id } = rows[pick % rows.length]!;
        if (damage === 'wrong') await sql.query(`update ${table} set value = value + 1 where ctid = $1::tid`, [at]);
        if (damage === 'missing') await sql.query(`delete from ${table} where ctid = $1::tid`, [at]);
        if (damage === 'extra') {
          const period = {
            ...{ meter_quarters: 'bucket', meter_days: 'date', meter_months: 'month' },
            ...{ meter_trimesters: 'trimester', meter_years: 'year' },
          }[table];
          await sql.query(
            `insert into ${table} (meter_id, merchant_id, ${period}, d1, d2, d3, d4, element, value)
             select meter_id, merchant_id, ${period}, 'nobody', d2, d3, d4, element, 1 from ${table} where ctid = $1::tid`,
            [at],
          );
        }
        const found = await check();
        const { rows: meters } = await sql.query('select key from meters where id = $1', [meter_id]);
        expect(found).toContainEqual(expect.objectContaining({ meter: meters[0]!.key, rollup: table }));
        // The hourly pass repairs days that changed, the nightly one all that Redis keeps.
        if (hourly) await sql.query('delete from meter_checks');
        const pass = createMeterCheck({ db: ingest.db, share: 1 });
        const range = { startDate: before, endDate: today };
        const nightly = { isGone: () => false, repair: true, everyMerchant: true };
        const drift = hourly
          ? (await pass.repairChanged(range, () => false)).drift
          : [
              ...(await pass.check({ startDate: before, endDate: before, merchantIds: [] }, nightly)).drift,
              ...(await pass.check({ startDate: today, endDate: today, merchantIds: [] }, nightly)).drift,
            ];
        expect(drift.length).toBeGreaterThan(0);
        await fold();
        expect(await check()).toEqual([]);
        expect(await stored()).toEqual(right);
      },
    ),
    { numRuns: RUNS, seed: Number(process.env.FC_SEED ?? Date.now() % 2 ** 31) },
  );
});

test('the hourly pass reports meters, compares what changed only, and goes on where a full pass ended', async () => {
  expect(await ingest.reconcile.repairChanged()).toMatchObject({ balanced: true });
  await record(['acme'], today);
  await ingest.deriveMeters.run();
  const damage = 'update meter_quarters set value = value + 1 where merchant_id = any($1) and bucket >= $2';
  await sql.query(damage, [['acme', 'gamma'], `${today}T00:00:00Z`]);
  const first = await ingest.reconcile.repairChanged();
  expect(first.balanced).toBe(false);
  const found = await ingest.db.checks.driftOn(dayOf(ingest.clock.now));
  expect(found?.numbers).toBe(first.meters.length);
  expect(found?.examples.map(({ merchantId }) => merchantId)).toEqual(first.meters.map(() => 'acme'));
  // Nothing of gamma changed, so the nightly pass finds it.
  expect(new Set(first.meters.map(({ merchantId }) => merchantId))).toEqual(new Set(['acme']));
  expect(await ingest.reconcile.repairChanged()).toMatchObject({ balanced: true });
  const nightly = await ingest.admin.reconcile.repair.mutate({});
  expect(nightly.balanced).toBe(false);
  expect(new Set(nightly.meters.map(({ merchantId }) => merchantId))).toEqual(new Set(['gamma']));
  expect(await ingest.admin.reconcile.repair.mutate({})).toMatchObject({ balanced: true, meters: [] });

  // A pass of at most one row ends after each group of days.
  await sql.query('delete from meter_checks');
  const small = createMeterCheck({ db: ingest.db, share: 1, maxPass: 1 });
  const range = { startDate: before, endDate: today };
  const unchecked = async () => (await ingest.db.meters.unchecked(range, { merchantId: '', date: before }, 100)).length;
  const all = await unchecked();
  expect(all).toBe(5);
  await small.repairChanged(range, () => false);
  const left = await unchecked();
  expect(left).toBeLessThan(all);
  await small.repairChanged(range, () => false);
  expect(await unchecked()).toBe(0);
});

test('a day with events that are still to be derived is not noted as right', async () => {
  await record(['delta'], today);
  await ingest.reconcile.repairChanged();
  const open = async () =>
    (await ingest.db.meters.unchecked({ startDate: today, endDate: today }, { merchantId: '', date: today }, 100)).map(
      ({ merchantId }) => merchantId,
    );
  expect(await open()).toEqual(['delta']);
  await ingest.deriveMeters.run();
  expect(await ingest.reconcile.repairChanged()).toMatchObject({ balanced: true });
  expect(await open()).toEqual([]);
});

test('a new meter makes every day unchecked, and its history is compared', async () => {
  await ingest.admin.meters.create.mutate({
    key: 'by_session',
    aggregation: 'COUNT',
    dimensions: ['property:session'],
  });
  expect(await check()).toEqual([]);
  await ingest.deriveMeters.run();
  const { rows } = await sql.query(`select id from meters where key = 'by_session'`);
  await sql.query('update meter_quarters set value = 99 where meter_id = $1 and merchant_id = $2 and bucket >= $3', [
    rows[0]!.id,
    'beta',
    `${today}T00:00:00Z`,
  ]);
  const { meters } = await ingest.reconcile.repairChanged();
  expect(meters).toContainEqual(expect.objectContaining({ meter: 'by_session', merchantId: 'beta', date: today }));
});

test('reconcile.rebuild makes damaged rollups of meters right, also of a day without its events', async () => {
  await fold();
  const right = await stored();
  await sql.query(`update meter_quarters set value = value + 1 where merchant_id = 'acme'`);
  await sql.query(`update meter_days set value = value + 1 where merchant_id = 'acme'`);
  await ingest.admin.reconcile.rebuild.mutate({ startDate: before, endDate: today, merchantIds: ['acme'] });
  expect(await check()).toEqual([]);
  await fold();
  expect(await stored()).toEqual(right);
  await sql.query('insert into usage_closed_days (date, entries) values ($1, 0)', [before]);
  await sql.query(`update meter_days set value = value + 1 where merchant_id = 'acme' and date = $1`, [before]);
  expect(await check()).toContainEqual(expect.objectContaining({ rollup: 'meter_days', date: before }));
  await ingest.admin.reconcile.rebuild.mutate({ startDate: before, endDate: before, merchantIds: ['acme'] });
  await fold();
  expect(await stored()).toEqual(right);
  await sql.query('delete from usage_closed_days');
});
