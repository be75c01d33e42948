import { addDays, MeterDefinition, startOfDay } from '@tally/contracts';
import { type FreshStore, freshDatabase, type Relay, startRelay } from '@tally/testkit';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { StoredMeter } from './meters/registry-store.ts';
import { type Db, openDb } from './open-db.ts';
import { migrate } from './schema.ts';

// A transaction is committed on the coordinator and not on the workers for as long as a test wants: relays between them
// hold what the coordinator sends. One Postgres has nothing between.

const MERCHANTS = Array.from({ length: 12 }, (_, at) => `m${at}`);
const requests = (found: readonly { requests: string | bigint }[]) =>
  found.reduce((sum, each) => sum + Number(each.requests), 0);

let store: FreshStore;
let db: Db;
let client: pg.Client;
const relays: Relay[] = [];
let serial = 0;

const onCitus = process.env.CITUS_DATABASE_URL !== undefined;
const suite = test.runIf(onCitus);

beforeAll(async () => {
  if (!onCitus) return;
  store = await freshDatabase(migrate);
  client = new pg.Client({ connectionString: store.url });
  await client.connect();
  const workers = 'select nodeid, nodename as host, nodeport as port from pg_dist_node where groupid > 0';
  for (const { nodeid, host, port } of (await client.query(workers)).rows) {
    const relay = await startRelay({ host, port });
    relays.push(relay);
    await client.query('select citus_update_node($1, $2, $3)', [nodeid, '127.0.0.1', relay.port]);
  }
  await client.query(
    `update usage_rolled_up set date = '2026-01-01', quarter_month = '2026-01-01', quarters_after = '2026-01-01'`,
  );
  await client.query('select start_metadata_sync_to_all_nodes()');
  db = await openDb(store.url, { poolSize: 10 });
});
afterAll(async () => {
  if (!onCitus) return;
  await db.close();
  await client.end();
  for (const relay of relays) relay.close();
  await store.drop();
});

/** Counts one request of each merchant, on all nodes. */
function append(date: string): Promise<unknown> {
  const flush = serial++;
  const line = { date, time: Date.parse(date) + 43_200_000, id: `e${flush}`, model: 'm', requests: '1' };
  const lines = MERCHANTS.map((merchant_id, at) => ({ ...line, merchant_id, origin: `${flush}:${at}` }));
  return db.journal.append({ source: 'direct', lines });
}

/** Waits until some work is done, or waits for a lock. */
async function doneOrWaiting(work: Promise<unknown>): Promise<void> {
  let isDone = false;
  const done = () => {
    isDone = true;
  };
  work.then(done, done);
  const waiting = `select from pg_locks where locktype = 'advisory' and not granted
    and database = (select oid from pg_database where datname = current_database())`;
  await expect.poll(async () => isDone || (await client.query(waiting)).rowCount! > 0, { timeout: 20_000 }).toBe(true);
}

/** Does some work while another is committed on the coordinator and not on the workers. */
async function whileCommitting<T>(commit: () => Promise<unknown>, work: () => Promise<T>): Promise<T> {
  const held = relays.map((relay) => relay.hold('COMMIT PREPARED'));
  const release = () => {
    for (const each of held) each.release();
  };
  const committing = commit();
  try {
    await Promise.race([Promise.all(held.map(({ caught }) => caught)), committing]);
    const working = work();
    await doneOrWaiting(working);
    release();
    return await working;
  } finally {
    release();
    await committing;
  }
}

/** Creates a meter of calls. */
const createMeter = (key: string): Promise<StoredMeter> =>
  db.meters.create(MeterDefinition.parse({ key, aggregation: 'COUNT', dimensions: ['model'] }), 'test');

/** Returns the calls of a day as a meter has them; undefined while its history is computed. */
async function callsOf(meter: StoredMeter, date: string): Promise<number | undefined> {
  const [start, end] = [startOfDay(date), startOfDay(addDays(date, 1))];
  if (await db.meters.isComputing(meter.id, { startDate: date, endDate: date })) return undefined;
  const rows = await db.meters.read(meter, { starts: [start], end, groupBy: [], filters: {}, limit: 10 });
  return Number(rows[0]?.value ?? 0);
}

suite('a read after a version has every event that the version counts', async () => {
  const date = '2026-01-05';
  const range = { startDate: date, endDate: date };
  await append(date);
  const before = await db.changes.versionOf(range);
  const { version, totals } = await whileCommitting(
    () => append(date),
    async () => ({
      version: await db.changes.versionOf(range),
      totals: await db.usage.totals({ parts: [{ cube: 'usage_daily', ...range }] }),
    }),
  );
  expect(version).not.toBe(before);
  expect(requests([totals])).toBe(2 * MERCHANTS.length);
});

suite('a reader of changes finds the events of the days that are listed', async () => {
  const date = '2026-01-15';
  const { next } = await db.changeLog.after(undefined, { limit: 1 });
  const place = { ...next, kind: 'log' as const, id: '0', position: 0 };
  const { rows, usage } = await whileCommitting(
    () => append(date),
    async () => ({
      rows: (await db.changeLog.after(place, { limit: 100 })).rows,
      usage: await db.usage.merchantUsage({ startDate: date, endDate: date, metricTypes: ['requests'] }),
    }),
  );
  const listed = rows.filter((row) => row.date === date);
  expect(usage.length).toBeGreaterThanOrEqual(listed.length);
});

suite('a derivation has every event of its flushes', async () => {
  const date = '2026-02-05';
  await append(date);
  await whileCommitting(
    () => append(date),
    () => db.derivations.derive(1_000),
  );
  while ((await db.derivations.derive(1_000)).flushes > 0);
  const { rows } = await client.query('select sum(requests) as requests from usage_daily_models where date = $1', [
    date,
  ]);
  expect(requests(rows)).toBe(2 * MERCHANTS.length);
});

suite('a derivation of meters has every event of its flushes', async () => {
  const date = '2026-02-10';
  const meter = await createMeter('derived');
  while (await db.meters.computeHistory(1_000));
  await append(date);
  await whileCommitting(
    () => append(date),
    () => db.meters.derive(1_000),
  );
  while ((await db.meters.derive(1_000)).flushes > 0);
  expect(await callsOf(meter, date)).toBe(2 * MERCHANTS.length);
});

suite('a day whose history is computed for a meter has every event', async () => {
  // The newest day, which is computed first.
  const date = '2026-04-11';
  await append(date);
  while ((await db.meters.derive(1_000)).flushes > 0);
  const meter = await createMeter('computed');
  const seen = await whileCommitting(
    () => db.meters.computeHistory(1_000),
    () => callsOf(meter, date),
  );
  expect([undefined, MERCHANTS.length]).toContain(seen);
});

suite('a day that is rolled up while an event of it is counted has the event once', async () => {
  const date = '2026-02-15';
  await append(date);
  while ((await db.derivations.derive(1_000)).flushes > 0);
  while (await db.derivations.rollUp(date, 1_000));
  const { caught, release } = relays[0]!.hold('SELECT merchant_id, date, user_id');
  const rollingUp = (async () => {
    while (await db.derivations.rollUp('2026-02-20', 1_000));
  })();
  try {
    await Promise.race([caught, rollingUp]);
    const appending = append(date);
    await doneOrWaiting(appending);
    release();
    await Promise.all([rollingUp, appending]);
  } finally {
    release();
  }
  while ((await db.derivations.derive(1_000)).flushes > 0);
  expect(await db.storedForms.periodsApart({ startDate: '2026-02-01', endDate: '2026-02-28' })).toEqual([]);
});

suite('the snapshot of a day that is current has every event of the day', async () => {
  const date = '2026-03-05';
  await append(date);
  await whileCommitting(
    () => append(date),
    () => db.days.rebuild([{ date, status: 'complete' }], { onlyStale: false }),
  );
  await db.days.rebuild([{ date, status: 'complete' }], { onlyStale: true });
  const users = (await db.days.groups(date)).filter(({ kind }) => kind === 'user');
  expect(requests(users)).toBe(2 * MERCHANTS.length);
});

suite('a rollup of a day whose mark is cleared has every event of the day', async () => {
  const date = '2026-03-15';
  await append(date);
  const period = { start: date, end: date, previousStart: '2026-03-14', weeksFrom: null };
  const run = await db.rollups.begin({ kind: 'daily', period: { start: date, end: date }, periodsTotal: 1 });
  try {
    await run.spreadMarks('2026-04-01', 1);
    await run.recompute('daily', period, 'all');
    await whileCommitting(
      () => append(date),
      async () => {
        await run.spreadMarks('2026-04-01', 1);
        await run.recompute('daily', period, 'stale');
      },
    );
    await run.spreadMarks('2026-04-01', 1);
    for (const stale of await run.stalePeriods())
      if (stale.start === date) await run.recompute('daily', period, 'stale');
  } finally {
    await run.release();
  }
  const { rows } = await client.query(
    `select value as requests from daily_metrics
     where period_start = $1 and entity_type = 'merchant' and metric_type = 'requests'`,
    [date],
  );
  expect(requests(rows)).toBe(2 * MERCHANTS.length);
});
