import { writeFile } from 'node:fs/promises';
import { loadavg } from 'node:os';
import pg from 'pg';
import { createIngestClient } from '../packages/contracts/dist/client.js';
import { cpuSecondsOf } from './cpu.mjs';
import { load } from './load.mjs';
import { KEY, machine, withProgram, withServers, withService } from './servers.mjs';

// `budgets.reserve` and `budgets.settle`: their latency at a fixed rate (open loop: a stall counts for every call that it
// delays), and how many go through as fast as answers come, beside the naive design, which locks a row of Postgres, and
// a server that makes one durable write: the floor. Each request meets two hard budgets in Tally, one in the naive
// design. CPU per pair holds also where other work loads the machine. BENCH_SECONDS (10); BENCH_RATES
// (500,1000,2000,3000,4000): calls per second, every other one settles what an earlier one reserved; BENCH_MERCHANTS
// (100), each with a budget of its own; BENCH_NAIVE=0 leaves out the naive design and the floor.
const SECONDS = Number(process.env.BENCH_SECONDS ?? 10);
const RATES = (process.env.BENCH_RATES ?? '500,1000,2000,3000,4000').split(',').map(Number);
const WARM_UP_SECONDS = 8;
const MERCHANTS = Number(process.env.BENCH_MERCHANTS ?? 100);
const CONNECTIONS = 32;
const BATCH = 200;

const loadBefore = loadavg()[0];
const result = await withServers(async (servers) => {
  const tally = await withService('usage-ingest', servers, {}, async (ingest) => {
    await insertBudgets(servers.databaseUrl);
    // A change through the service tells it of all.
    const budget = { measure: 'cost', period: 'month', limit: '1000000', enforcement: 'hard' };
    await createIngestClient({ url: ingest.url, key: KEY }).budgets.create.mutate(budget);
    // The compiler of V8 has work for some seconds.
    await load({ port: ingest.port, connections: CONNECTIONS, callOf: callsOf(1), seconds: WARM_UP_SECONDS });
    const rows = [];
    for (const callsPerSecond of RATES) rows.push(await measure('Tally', ingest, servers, { callsPerSecond }));
    rows.push(await measure('Tally', ingest, servers));
    rows.push(await measure('Tally', ingest, servers, { batch: BATCH }));
    return rows;
  });
  if (process.env.BENCH_NAIVE === '0') return tally;
  const naive = await withProgram('bench/naive/budgets-server.mjs', servers, {}, async (server) => [
    await measure('naive', server, servers, { callsPerSecond: 2_000 }),
    await measure('naive', server, servers),
  ]);
  const floor = await withProgram('bench/one-write.mjs', servers, {}, async (server) => [
    await measure('one write', server, servers, { callsPerSecond: 2_000 }),
    await measure('one write', server, servers),
  ]);
  return [...tally, ...naive, ...floor];
});
console.log(`${machine()}, load ${loadBefore.toFixed(1)} before`);
console.table(
  result.map(({ 'CPU µs a pair': cpu, ...row }) => ({
    ...row,
    ...Object.fromEntries(Object.entries(cpu).map(([name, each]) => [`${name} µs`, each])),
  })),
);
await writeFile(
  new URL('results/budgets.json', import.meta.url),
  `${JSON.stringify({ machine: machine(), date: new Date().toISOString().slice(0, 10), seconds: SECONDS, loadBefore, merchants: MERCHANTS, rows: result }, null, 2)}\n`,
);

/** A budget of each merchant, inserted at once: each change through the service waits until it is in force. */
async function insertBudgets(url) {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  await client.query(
    `insert into budgets (name, merchant_id, user_id, api_key, model, measure, "limit", period, time_zone, enforcement,
      when_unavailable, thresholds, created_by)
    select 'own', 'shop-' || n, '', '', '', 'cost', 1000000 * 10::bigint ^ 9, 'month', 'UTC', 'hard', 'allow', '{}', 'admin'
    from generate_series(0, $1::int - 1) as n`,
    [MERCHANTS],
  );
  await client.query('update budget_list set version = version + 1');
  await client.end();
}

async function measure(of, { port, pid }, { redis, postgres }, { callsPerSecond, batch = 1 } = {}) {
  const pids = { service: pid, Redis: redis.pid, Postgres: postgres.pid };
  const cpu = () => [
    ...Object.entries(pids).map(([name, each]) => [name, cpuSecondsOf(each)]),
    ['load', (process.cpuUsage().user + process.cpuUsage().system) / 1e6],
  ];
  const next = callsOf(batch);
  const options = { port, connections: CONNECTIONS, callOf: next, callsPerSecond };
  await load({ ...options, seconds: 1, warmUpMs: 1_000 });
  const before = Object.fromEntries(cpu());
  const { calls, seconds, latencies } = await load({ ...options, seconds: SECONDS, warmUpMs: 0 });
  const used = cpu().map(([name, after]) => [name, after - before[name]]);
  const pairs = (calls * batch) / 2;
  return {
    of,
    how: `${callsPerSecond ? `${callsPerSecond} calls/s wanted` : 'as fast as answers come'}${batch > 1 ? `, ${batch} in a call` : ''}`,
    'calls/s': Math.round(calls / seconds),
    'pairs/s': Math.round(pairs / seconds),
    ...latencies,
    'CPU µs a pair': Object.fromEntries(used.map(([name, each]) => [name, Math.round((each / pairs) * 1e6)])),
  };
}

/** Calls in turn: a reservation, and the settlement of the one that was made by the same connection before. */
function callsOf(batch) {
  const session = Math.random().toString(36).slice(2, 8);
  const time = new Date().toISOString();
  let number = 0;
  const reserved = [];
  return () => {
    const ready = reserved.length > CONNECTIONS * 2 ? reserved.shift() : undefined;
    if (ready) {
      const settlements = ready.map(({ id, merchantId }) => ({
        reservationId: `${merchantId}/${id}`,
        entry: {
          id,
          merchantId,
          time,
          userId: 'ada',
          model: 'gpt-4o',
          metrics: { prompt_tokens: '374', completion_tokens: '44', cost: '0.0023' },
        },
      }));
      return call('budgets.settle', settlements, 'settlements');
    }
    const requests = Array.from({ length: batch }, () => {
      const id = `${session}-${number++}`;
      return {
        id,
        merchantId: `shop-${number % MERCHANTS}`,
        userId: 'ada',
        model: 'gpt-4o',
        amounts: { cost: '0.05' },
      };
    });
    reserved.push(requests);
    return call('budgets.reserve', requests, 'requests');
  };
}

function call(name, items, field) {
  if (items.length === 1) return { path: `/trpc/${name}`, body: JSON.stringify(items[0]) };
  return { path: `/trpc/${name}Many`, body: JSON.stringify({ [field]: items }) };
}
