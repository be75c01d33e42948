import { writeFile } from 'node:fs/promises';
import { loadavg } from 'node:os';
import { setTimeout as wait } from 'node:timers/promises';
import pg from 'pg';
import { createIngestClient } from '../packages/contracts/dist/client.js';
import { cpuSecondsOf } from './cpu.mjs';
import { load } from './load.mjs';
import { KEY, machine, withProgram, withServers, withService } from './servers.mjs';
import { BATCH, bodiesOf, WORKLOADS } from './workloads.mjs';

// Measures the write path in realistic workloads, flush on, beside the naive design (naive/server.mjs) on the same
// machine in the same run: fresh stores, the same bodies, the same load, every write synced on both sides. `accepted`
// is what callers were answered; `counted` is over the time until the last event is in every rollup. BENCH_SECONDS
// (15): length of a load. BENCH_WORKLOADS (all): a list, such as varied,rich.
const SECONDS = Number(process.env.BENCH_SECONDS ?? 15);
const CONNECTIONS = 16;
const NAMES = process.env.BENCH_WORKLOADS?.split(',') ?? Object.keys(WORKLOADS);

const rows = [];
for (const name of NAMES) {
  const naive = await withServers((servers) =>
    withProgram('bench/naive/server.mjs', servers, {}, (service) =>
      measure(name, service, servers, '/record', async () => {}),
    ),
  );
  const tally = await withServers((servers) =>
    withService('usage-ingest', servers, {}, (service) =>
      measure(name, service, servers, '/trpc/usage.record', () => allCounted(service, servers)),
    ),
  );
  // Other load of the machine: above 2 the two sides compete with it, and more processes get more of the machine.
  const load = Math.round(loadavg()[0] * 10) / 10;
  rows.push({ workload: name, load, naive, tally });
  console.table([tableRow(name, naive, tally)]);
}
console.log(machine());
console.table(rows.map(({ workload, naive, tally }) => tableRow(workload, naive, tally)));
await writeFile(
  new URL('results/write-path.json', import.meta.url),
  `${JSON.stringify({ machine: machine(), date: new Date().toISOString().slice(0, 10), seconds: SECONDS, rows }, null, 2)}\n`,
);

function cpuOf(pids) {
  return Object.fromEntries(Object.entries(pids).map(([of, pid]) => [of, cpuSecondsOf(pid)]));
}

async function measure(name, service, servers, path, counted) {
  const pids = { service: service.pid, redis: servers.redis.pid, postgres: servers.postgres.pid };
  const bodyOf = bodiesOf(name);
  // Warms the service up with events of their own.
  await load({ port: service.port, path, bodyOf, connections: CONNECTIONS, seconds: 0.1, warmUpMs: 2_000 });
  await counted();
  const before = cpuOf(pids);
  const started = performance.now();
  const { calls, seconds, latencies } = await load({
    port: service.port,
    path,
    bodyOf,
    connections: CONNECTIONS,
    seconds: SECONDS,
    warmUpMs: 0,
  });
  await counted();
  const whole = (performance.now() - started) / 1000;
  const used = cpuOf(pids);
  const events = calls * BATCH;
  const micros = (of) => Math.round(((used[of] - before[of]) * 1e6 * 10) / events) / 10;
  return {
    events,
    acceptedPerSecond: Math.round(events / seconds),
    countedPerSecond: Math.round(events / whole),
    drainSeconds: Math.round((whole - seconds) * 10) / 10,
    ...latencies,
    cpuMicrosPerEvent: Object.fromEntries(Object.keys(pids).map((of) => [of, micros(of)])),
  };
}

/** Resolves when every acknowledged event is in every rollup, derived ones included. */
async function allCounted(service, servers) {
  const ingest = createIngestClient({ url: service.url, key: KEY });
  await ingest.flush.drain.mutate({});
  const sql = new pg.Client({ connectionString: servers.databaseUrl });
  await sql.connect();
  while ((await underived(sql)) > 0) await wait(50);
  await sql.end();
}

/** Flushes whose events are not in the coarse rollups yet. */
async function underived(sql) {
  const { rows: found } = await sql.query(
    'select count(*)::int as waiting from usage_flushes where derived_at is null',
  );
  return found[0].waiting;
}

function tableRow(workload, naive, tally) {
  const ratio = (of) => Number((tally[of] / naive[of]).toFixed(2));
  const cpu = ({ cpuMicrosPerEvent: { service, redis, postgres } }) => `${service} + ${redis} + ${postgres}`;
  return {
    workload,
    'accepted/s': tally.acceptedPerSecond,
    'naive/s': naive.acceptedPerSecond,
    'accepted ÷ naive': ratio('acceptedPerSecond'),
    'counted/s': tally.countedPerSecond,
    'counted ÷ naive': ratio('countedPerSecond'),
    'drain s': tally.drainSeconds,
    'p99 ms': tally['p99 ms'],
    'µs CPU/event (service + redis + postgres)': cpu(tally),
    'naive µs': cpu(naive),
  };
}
