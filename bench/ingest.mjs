import { writeFile } from 'node:fs/promises';
import { bodies, load } from './load.mjs';
import { machine, redisIncrBy, withServers, withService } from './servers.mjs';

// Measures acceptance over HTTP: durable, deduplicated, with all dimensions. Everything on one machine, including this
// generator.
const SECONDS = Number(process.env.BENCH_SECONDS ?? 5);

const rows = [];
const results = await withServers(async (servers) => {
  const limit = { single: redisIncrBy(servers.redisUrl), pipelined: redisIncrBy(servers.redisUrl, { pipeline: 16 }) };
  await withService('usage-ingest', servers, { ENABLE_FLUSH: 'false' }, async (service) => {
    for (const [batch, merchants] of [
      [1, 1],
      [100, 1],
      [500, 1],
      [500, 10],
    ]) {
      const measured = await record(service, { batch, merchants, connections: batch === 1 ? 32 : 8 });
      rows.push({ what: `record, batches of ${batch}, ${merchants} merchant(s)`, ...measured });
    }
    rows.push({ what: 'track, single calls', ...(await track(service)) });
  });
  return { limit, rows };
});
console.log(machine());
console.log(
  `redis-benchmark INCRBY on the same server, every write synced: ${Math.round(results.limit.single)}/s, 16 to a pipeline: ${Math.round(results.limit.pipelined)}/s`,
);
console.table(rows.map((row) => ({ ...row, 'of INCRBY': (row['per second'] / results.limit.single).toFixed(2) })));
await writeFile(
  new URL('results/ingest.json', import.meta.url),
  `${JSON.stringify({ machine: machine(), ...results }, null, 2)}\n`,
);

async function record({ port }, { batch, merchants, connections }) {
  const bodyOf = bodies({ batch, merchants });
  const { calls, seconds, latencies } = await load({
    port,
    path: '/trpc/usage.record',
    bodyOf,
    connections,
    seconds: SECONDS,
  });
  return { 'per second': Math.round((calls * batch) / seconds), ...latencies };
}

async function track({ port }) {
  const bodyOf = () => '{"merchantId":"bench-track","metricType":"queries"}';
  const { calls, seconds, latencies } = await load({
    port,
    path: '/trpc/usage.track',
    bodyOf,
    connections: 64,
    seconds: SECONDS,
  });
  return { 'per second': Math.round(calls / seconds), ...latencies };
}
