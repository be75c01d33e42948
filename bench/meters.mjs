import { writeFile } from 'node:fs/promises';
import { setTimeout as wait } from 'node:timers/promises';
import pg from 'pg';
import { createAnalyticsClient, createIngestClient } from '../packages/contracts/dist/client.js';
import { cpuSecondsOf } from './cpu.mjs';
import { load } from './load.mjs';
import { KEY, machine, withServers, withService } from './servers.mjs';
import { BATCH, bodiesOf } from './workloads.mjs';

// Measures the cost of meters: the same load without meters and with ten of two dimensions each, until every event is
// in every rollup, in turns, since the machine is not always as fast; and the time of a query over a year of 10,000
// values. BENCH_SECONDS (8): length of a load. BENCH_TURNS (3): loads of each kind.
const SECONDS = Number(process.env.BENCH_SECONDS ?? 8);
const TURNS = Number(process.env.BENCH_TURNS ?? 3);
const VALUES = 10_000;
const QUERIES = 30;
/** Queries before, until V8 has compiled what they run. */
const WARM_UP = 30;

const PAIRS = [
  ['user', 'model'],
  ['apiKey', 'model'],
  ['model', 'property:region'],
  ['model', 'property:team'],
  ['property:team', 'property:region'],
  ['property:feature', 'model'],
  ['provider', 'property:feature'],
  ['apiKey', 'property:team'],
  ['user', 'property:region'],
  ['provider', 'property:team'],
];
const METRICS = ['cached_tokens', 'reasoning_tokens', 'images', 'audio_ms', 'tool_calls'];

const rows = [];
for (const meters of Array(TURNS).fill([0, 10]).flat()) {
  const measured = await withServers((servers) =>
    withService('usage-ingest', servers, {}, async (service) => {
      const ingest = createIngestClient({ url: service.url, key: KEY });
      for (const [index, dimensions] of PAIRS.slice(0, meters).entries())
        await ingest.meters.create.mutate({
          key: `meter_${index}`,
          aggregation: 'SUM',
          metricType: METRICS[index % METRICS.length],
          dimensions,
        });
      return measure(service, servers);
    }),
  );
  rows.push({ meters, ...measured });
  console.table([{ meters, ...measured }]);
}
const least = (meters) => Math.min(...rows.filter((row) => row.meters === meters).map(({ micros }) => micros));
const ratio = Math.round((least(10) / least(0)) * 100) / 100;
const query = await withServers(queryYear);
const result = {
  machine: machine(),
  date: new Date().toISOString().slice(0, 10),
  seconds: SECONDS,
  rows,
  ratio,
  query,
};
console.log(result);
await writeFile(new URL('results/meters.json', import.meta.url), `${JSON.stringify(result, null, 2)}\n`);

async function measure(service, servers) {
  const pids = [service.pid, servers.redis.pid, servers.postgres.pid];
  const bodyOf = bodiesOf('rich');
  const run = (seconds) =>
    load({ port: service.port, path: '/trpc/usage.record', bodyOf, connections: 16, seconds, warmUpMs: 0 });
  await run(1);
  await allCounted(service, servers);
  const cpu = () => pids.reduce((sum, pid) => sum + cpuSecondsOf(pid), 0);
  const [before, started] = [cpu(), performance.now()];
  const { calls, seconds } = await run(SECONDS);
  await allCounted(service, servers);
  const events = calls * BATCH;
  return {
    acceptedPerSecond: Math.round(events / seconds),
    countedPerSecond: Math.round(events / ((performance.now() - started) / 1000)),
    /** CPU time of an event: service, Redis and Postgres. */
    micros: Math.round(((cpu() - before) * 1e7) / events) / 10,
  };
}

async function allCounted(service, servers) {
  await createIngestClient({ url: service.url, key: KEY }).flush.drain.mutate({});
  const sql = new pg.Client({ connectionString: servers.databaseUrl });
  await sql.connect();
  for (;;) {
    const { rows: found } = await sql.query(
      'select count(*)::int as waiting from usage_flushes where derived_at is null or metered is null',
    );
    if (found[0].waiting === 0) break;
    await wait(50);
  }
  await sql.end();
}

/** A meter with 10,000 users in every month of a year, and 500 of them on each day. */
async function queryYear(servers) {
  return withService('usage-ingest', servers, { ENABLE_FLUSH: 'false' }, async (ingest) => {
    await createIngestClient({ url: ingest.url, key: KEY }).meters.create.mutate({
      key: 'pages',
      aggregation: 'SUM',
      metricType: 'pages',
      dimensions: ['user'],
    });
    const sql = new pg.Client({ connectionString: servers.databaseUrl });
    await sql.connect();
    await sql.query(
      `insert into meter_months (meter_id, merchant_id, month, d1, d2, d3, d4, element, value)
       select 1, 'acme', month::date, 'user-' || n, '', '', '', '', n
       from generate_series('2025-01-01'::date, '2025-12-01', '1 month') as month, generate_series(1, $1) as n`,
      [VALUES],
    );
    await sql.query(
      `insert into meter_days (meter_id, merchant_id, date, d1, d2, d3, d4, element, value)
       select 1, 'acme', day::date, 'user-' || n, '', '', '', '', n
       from generate_series('2024-11-01'::date, '2026-01-31', '1 day') as day, generate_series(1, 500) as n`,
    );
    await sql.query(
      `insert into meter_trimesters (meter_id, merchant_id, trimester, d1, d2, d3, d4, element, value)
       select meter_id, merchant_id, date_trunc('quarter', month)::date, d1, d2, d3, d4, element, sum(value)
       from meter_months
       group by 1, 2, 3, 4, 5, 6, 7, 8`,
    );
    await sql.query(
      `insert into meter_years (meter_id, merchant_id, year, d1, d2, d3, d4, element, value)
       select meter_id, merchant_id, date_trunc('year', trimester)::date, d1, d2, d3, d4, element, sum(value)
       from meter_trimesters
       group by 1, 2, 3, 4, 5, 6, 7, 8`,
    );
    await sql.query('vacuum analyze meter_years, meter_trimesters, meter_months, meter_days');
    await sql.end();
    const settings = {
      USAGE_INGEST_URL: ingest.url,
      ADMIN_ANALYTICS_RATE_LIMIT: '100000',
      // What is measured is the work of a query, not of an answer that is kept.
      ENABLE_ANALYTICS_CACHE: 'false',
    };
    return withService('analytics-api', servers, settings, async ({ url }) => {
      const client = createAnalyticsClient({ url, key: KEY });
      const times = {};
      for (const [name, range] of Object.entries({
        calendarYear: { startDate: '2025-01-01', endDate: '2025-12-31' },
        rollingYear: { startDate: '2025-01-15', endDate: '2026-01-14' },
      })) {
        const took = [];
        for (let n = -WARM_UP; n < QUERIES; n++) {
          const started = performance.now();
          const { rows: found } = await client.analytics.meter.query({
            ...{ meter: 'pages', merchantIds: ['acme'], ...range, groupBy: ['user'] },
          });
          if (n >= 0) took.push(performance.now() - started);
          if (found.length !== VALUES) throw new Error(`${found.length} rows`);
        }
        took.sort((a, b) => a - b);
        times[name] = { 'p50 ms': Math.round(took[QUERIES / 2]), 'p90 ms': Math.round(took[QUERIES * 0.9]) };
      }
      return times;
    });
  });
}
