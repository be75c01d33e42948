import { spawnSync } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { setTimeout as wait } from 'node:timers/promises';
import pg from 'pg';
import { createAnalyticsClient, createIngestClient } from '../packages/contracts/dist/client.js';
import { bodies, load } from './load.mjs';
import { KEY, machine, withServers, withService } from './servers.mjs';

// Measures accepting and flushing at once, on one machine with this generator: accepted events, events in every rollup,
// the time of an entry into an answer, and the memory used when more arrives than the flush can move.
const SECONDS = Number(process.env.BENCH_SECONDS ?? 15);
const SERVICE_KEY = 'the-service-key-of-the-bench';

const result = await withServers((servers) =>
  withService('usage-ingest', servers, { TALLY_SERVICE_KEY: SERVICE_KEY }, (ingest) =>
    withService(
      'analytics-api',
      servers,
      { TALLY_SERVICE_KEY: SERVICE_KEY, USAGE_INGEST_URL: ingest.url },
      (analytics) => measure(servers, ingest, analytics),
    ),
  ),
);
console.log(machine());
console.table([result]);
await writeFile(
  new URL('results/sustained.json', import.meta.url),
  `${JSON.stringify({ machine: machine(), ...result }, null, 2)}\n`,
);

async function measure(servers, ingest, analytics) {
  const client = createIngestClient({ url: ingest.url, key: KEY });
  const asking = createAnalyticsClient({ url: analytics.url, key: KEY });
  const sql = new pg.Client({ connectionString: servers.databaseUrl });
  await sql.connect();
  const state = { done: false };
  const memory = watchMemory({ ingest: ingest.pid, redis: servers.redis.pid }, state);
  const fresh = askForMarkers(client, asking, state);
  const bodyOf = bodies({ batch: 500, merchants: 10, prefix: 'sustained' });
  const started = performance.now();
  const { calls, seconds } = await load({
    port: ingest.port,
    path: '/trpc/usage.record',
    bodyOf,
    connections: 4,
    seconds: SECONDS,
    warmUpMs: 0,
  });
  const counted = await countedIn(sql);
  state.done = true;
  await client.flush.drain.mutate({});
  const drained = (performance.now() - started) / 1000;
  const latencies = (await fresh).sort((a, b) => a - b);
  const total = await countedIn(sql);
  await sql.end();
  const peak = await memory;
  return {
    'accepted/s': Math.round((calls * 500) / seconds),
    'counted in every cube/s, meanwhile': Math.round(counted / seconds),
    'all counted/s, to the last entry': Math.round(total / drained),
    'accepted → in an answer, p50 ms': Math.round(latencies[Math.floor(latencies.length / 2)] ?? Number.NaN),
    'worst of': latencies.length,
    'worst ms': Math.round(latencies.at(-1) ?? Number.NaN),
    'ingest peak MiB': Math.round(peak.ingest / 1024),
    'redis peak MiB': Math.round(peak.redis / 1024),
  };
}

/** Requests of the load's merchants that Postgres has counted. */
async function countedIn(sql) {
  const { rows } = await sql.query(
    `select coalesce(sum(metric_value), 0)::float8 as requests from merchant_usage where metric_type = 'requests'`,
  );
  return rows[0].requests;
}

/** Records a marker, then queries until it is in the answer. */
async function askForMarkers(client, asking, state) {
  const latencies = [];
  const today = new Date().toISOString().slice(0, 10);
  for (let marker = 1; !state.done; marker++) {
    await client.usage.record.mutate({
      entries: [{ id: `m${marker}`, merchantId: 'marker', time: new Date().toISOString(), metrics: {} }],
    });
    const accepted = performance.now();
    for (;;) {
      const { totals } = await asking.analytics.breakdown.query({
        startDate: today,
        endDate: today,
        by: 'merchant',
        merchantIds: ['marker'],
      });
      if (Number(totals.requests) >= marker) break;
    }
    latencies.push(performance.now() - accepted);
    await wait(200);
  }
  return latencies;
}

async function watchMemory(pids, state) {
  const peak = Object.fromEntries(Object.keys(pids).map((name) => [name, 0]));
  while (!state.done) {
    for (const [name, pid] of Object.entries(pids)) {
      const kib = Number(spawnSync('ps', ['-o', 'rss=', '-p', String(pid)], { encoding: 'utf8' }).stdout);
      peak[name] = Math.max(peak[name], kib);
    }
    await wait(500);
  }
  return peak;
}
