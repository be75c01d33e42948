import { writeFile } from 'node:fs/promises';
import { setTimeout as wait } from 'node:timers/promises';
import pg from 'pg';
import { createAnalyticsClient, createIngestClient } from '../packages/contracts/dist/client.js';
import { openDb } from '../packages/db/dist/index.js';
import { load } from './load.mjs';
import { KEY, machine, withServers, withService } from './servers.mjs';
import { BATCH, bodiesOf } from './workloads.mjs';

// Measures latency under load, 50,000 merchants: how long an acknowledged event takes into an answer; and how long
// `usage.record` of one event takes at half of its maximum rate, alone and beside queries over a year and
// reconciliations. BENCH_SECONDS (10): length of each load. BENCH_RATE (5000): events per second of the first part.
const SECONDS = Number(process.env.BENCH_SECONDS ?? 10);
const RATE = Number(process.env.BENCH_RATE ?? 5_000);
const CONNECTIONS = 16;
/** Users with an event on each day of the year before today. */
const USERS = 1_000;

const day = (ago) => new Date(Date.now() - ago * 86_400_000).toISOString().slice(0, 10);
const percentiles = (times) => {
  const sorted = [...times].sort((a, b) => a - b);
  const at = (share) => Math.round(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] * 10) / 10;
  return { 'p50 ms': at(0.5), 'p99 ms': at(0.99), 'worst ms': at(1), of: sorted.length };
};

const result = await withServers((servers) =>
  withService('usage-ingest', servers, { TALLY_SERVICE_KEY: `${KEY}-service` }, (ingest) =>
    withService(
      'analytics-api',
      servers,
      { TALLY_SERVICE_KEY: `${KEY}-service`, USAGE_INGEST_URL: ingest.url, ENABLE_ANALYTICS_CACHE: 'false' },
      (analytics) => measure(servers, ingest, analytics),
    ),
  ),
);
console.log(machine());
console.table(result.rows);
await writeFile(
  new URL('results/latency.json', import.meta.url),
  `${JSON.stringify({ machine: machine(), date: day(0), seconds: SECONDS, ...result }, null, 2)}\n`,
);

async function measure(servers, ingest, analytics) {
  const client = createIngestClient({ url: ingest.url, key: KEY });
  const asking = createAnalyticsClient({ url: analytics.url, key: KEY });
  const rollUpMs = await seedYear(servers);
  const record = (batch, options) =>
    load({
      ...{ port: ingest.port, path: '/trpc/usage.record', bodyOf: bodiesOf('spread', { batch }) },
      ...{ connections: CONNECTIONS, seconds: SECONDS, warmUpMs: 1_000, ...options },
    });
  const rows = [];
  const show = (what, row) => {
    rows.push({ what, ...row });
    console.table(rows.slice(-1));
  };

  const state = { done: false };
  const markers = Promise.all([1, 2, 3, 4].map((asker) => askForMarkers(client, asking, asker, state)));
  const { calls, seconds } = await record(BATCH, { callsPerSecond: RATE / BATCH });
  state.done = true;
  const fresh = percentiles((await markers).flat());
  show(`accepted → in an answer, at ${Math.round((calls * BATCH) / seconds)} events/s`, fresh);

  const most = await record(1, { seconds: Math.min(SECONDS, 5) });
  const callsPerSecond = Math.round(most.calls / most.seconds / 2);
  show(`record, 1 event, as fast as it goes: ${Math.round(most.calls / most.seconds)}/s`, most.latencies);
  const alone = await record(1, { callsPerSecond });
  show(`record, 1 event, ${callsPerSecond}/s, alone`, alone.latencies);
  const beside = { done: false, queries: [], checks: [] };
  const others = Promise.all([
    again(beside, beside.queries, () =>
      asking.analytics.breakdown.query({ startDate: day(365), endDate: day(1), by: 'user', limit: 50 }),
    ),
    again(beside, beside.checks, () => client.reconcile.check.query({ startDate: day(1), endDate: day(0) })),
  ]);
  const loaded = await record(1, { callsPerSecond });
  beside.done = true;
  await others;
  show(`record, 1 event, ${callsPerSecond}/s, beside a year's query and a reconcile`, loaded.latencies);
  show('the query over a year meanwhile', percentiles(beside.queries));
  show('reconcile.check of 2 days meanwhile', percentiles(beside.checks));
  return { rows, rollUp: { rows: USERS * 365, ms: Math.round(rollUpMs) } };
}

/** Writes a year of days like the counting transaction; rolls them up, and returns the time for all of it. */
async function seedYear({ databaseUrl }) {
  const sql = new pg.Client({ connectionString: databaseUrl });
  await sql.connect();
  const range = [day(365), day(1)];
  await sql.query(
    `insert into usage_daily
     select 'acme', day::date, 'user-' || n, 'key-' || n % 50, 'model-' || n % 5, 'p', 1, 0, 100, 50, 1000000
     from generate_series($1::date, $2::date, interval '1 day') as day, generate_series(1, $3::int) as n order by 1, 2, 3`,
    [...range, USERS],
  );
  const days = `select 'acme' as merchant_id, day::date as date from generate_series($1::date, $2::date, interval '1 day') as day`;
  await sql.query(`insert into merchant_usage select merchant_id, date, 'requests', $3::int from (${days}) as days`, [
    ...range,
    USERS,
  ]);
  await sql.query(`insert into usage_changes select 'day', date, merchant_id, 1 from (${days}) as days`, range);
  await sql.query('update usage_rolled_up set date = $1, quarter_month = usage_quarter_month($1)', range.slice(0, 1));
  await sql.query('vacuum (analyze)');
  await sql.end();
  const db = await openDb(databaseUrl);
  const started = performance.now();
  while (await db.derivations.rollUp(day(0), 10_000));
  await db.close();
  return performance.now() - started;
}

/** Records an event of a new user, then queries until it is in the answer. */
async function askForMarkers(client, asking, asker, state) {
  const times = [];
  for (let marker = 0; !state.done; marker++) {
    const user = `marker-${asker}-${marker}`;
    const merchantId = `shop-${asker * 1_000 + marker}`;
    await client.usage.record.mutate({ entries: [{ id: user, merchantId, userId: user, metrics: {} }] });
    const accepted = performance.now();
    const question = { startDate: day(1), endDate: day(0), by: 'user', merchantIds: [merchantId], userIds: [user] };
    while ((await asking.analytics.breakdown.query(question)).rows.length === 0);
    times.push(performance.now() - accepted);
    await wait(50);
  }
  return times;
}

async function again(state, times, work) {
  while (!state.done) {
    const started = performance.now();
    await work();
    times.push(performance.now() - started);
  }
}
