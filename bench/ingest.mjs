import { writeFile } from 'node:fs/promises';
import { Agent, request } from 'node:http';
import { KEY, machine, redisIncrBy, withServers, withService } from './servers.mjs';

// Accepting over HTTP: durable, deduplicated, with all dimensions. Everything on one machine, this generator included.
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
  let number = 0;
  const time = new Date().toISOString();
  const session = Math.random().toString(36).slice(2, 8);
  // Only the ids differ from body to body, so that this generator costs little beside the service.
  const template = JSON.stringify({
    entries: Array.from({ length: batch }, (_, index) => ({
      id: `#${index}`,
      merchantId: `bench-${batch}-${index % merchants}`,
      time,
      userId: `user-${index % 100}`,
      apiKey: `key-${index % 10}`,
      model: ['gpt-4o', 'gpt-4o-mini', 'claude-sonnet'][index % 3],
      provider: 'openai',
      metrics: { prompt_tokens: '374', completion_tokens: '44', cost: '0.0023' },
    })),
  });
  const bodyOf = () => template.replaceAll('"id":"#', `"id":"${session}-${number++}-`);
  const { calls, seconds, latencies } = await load({ port, path: '/trpc/usage.record', bodyOf, connections });
  return { 'per second': Math.round((calls * batch) / seconds), ...latencies };
}

async function track({ port }) {
  const bodyOf = () => '{"merchantId":"bench-track","metricType":"queries"}';
  const { calls, seconds, latencies } = await load({ port, path: '/trpc/usage.track', bodyOf, connections: 64 });
  return { 'per second': Math.round(calls / seconds), ...latencies };
}

/** Sends as fast as the answers come, over kept connections, for the time of one measurement. */
async function load({ port, path, bodyOf, connections }) {
  const agent = new Agent({ keepAlive: true, maxSockets: connections });
  const headers = { authorization: `Bearer ${KEY}`, 'content-type': 'application/json' };
  const send = (body) =>
    new Promise((resolve, reject) => {
      const call = request(
        {
          agent,
          port,
          host: '127.0.0.1',
          method: 'POST',
          path,
          headers: { ...headers, 'content-length': Buffer.byteLength(body) },
        },
        (response) => {
          response.resume();
          response.on('end', () =>
            response.statusCode === 200 ? resolve() : reject(new Error(`status ${response.statusCode}`)),
          );
        },
      );
      call.on('error', reject);
      call.end(body);
    });
  const times = [];
  const run = async (until, count) => {
    let calls = 0;
    await Promise.all(
      Array.from({ length: connections }, async () => {
        while (performance.now() < until) {
          const body = bodyOf();
          const started = performance.now();
          await send(body);
          if (count) times.push(performance.now() - started);
          calls++;
        }
      }),
    );
    return calls;
  };
  await run(performance.now() + 1500, false);
  const started = performance.now();
  const calls = await run(started + SECONDS * 1000, true);
  const seconds = (performance.now() - started) / 1000;
  agent.destroy();
  times.sort((a, b) => a - b);
  const at = (share) => Number(times[Math.floor(times.length * share)]?.toFixed(2));
  return { calls, seconds, latencies: { 'p50 ms': at(0.5), 'p99 ms': at(0.99) } };
}
