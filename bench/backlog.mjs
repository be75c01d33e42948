import { writeFile } from 'node:fs/promises';
import { createIngestClient } from '../packages/contracts/dist/client.js';
import { openDb } from '../packages/db/dist/index.js';
import { memoryOf } from './cpu.mjs';
import { load } from './load.mjs';
import { KEY, machine, withServers, withService } from './servers.mjs';

// Measures calls about a merchant with a backlog. Another process holds the lease of all shards, so that no call can
// flush what waits. Then the lease ends and the backlog is flushed. Time and memory of each. BENCH_EVENTS (1000000):
// pending events. BENCH_MERCHANTS (1,50000): merchants that have them, in a run each; with one, all wait in one shard.
const EVENTS = Number(process.env.BENCH_EVENTS ?? 1_000_000);
const RUNS = (process.env.BENCH_MERCHANTS ?? '1,50000').split(',').map(Number);
const BATCH = 1_000;
const MERCHANT = 'm0';
const today = new Date().toISOString().slice(0, 10);
const day = { startDate: today, endDate: today };

const rows = [];
for (const merchants of RUNS) rows.push(...(await withServers((servers) => run(servers, merchants))));
console.log(machine());
console.table(rows);
const result = { machine: machine(), date: today, events: EVENTS, rows };
await writeFile(new URL('results/backlog.json', import.meta.url), `${JSON.stringify(result, null, 2)}\n`);

function run(servers, merchants) {
  return withService('usage-ingest', servers, { ENABLE_FLUSH: 'false' }, async (service) => {
    const ingest = createIngestClient({ url: service.url, key: KEY });
    const db = await openDb(servers.databaseUrl);
    const shards = Array.from({ length: 64 }, (_, shard) => shard);
    const lease = await db.shards.take(shards, shards.length, 'bench', 3_600_000);
    await fill(service.port, merchants);
    const measured = [];
    const measure = async (call, work) => {
      const started = performance.now();
      const peak = watch(service.pid);
      const answer = await work().catch((error) => ({ error: error.message }));
      const row = { merchants, call, seconds: seconds(started), 'most MiB': await peak(), answer: brief(answer) };
      measured.push(row);
      console.table([row]);
    };
    await measure('nothing', async () => {});
    await measure('usage.current', () => ingest.usage.current.query({ merchantId: MERCHANT }));
    await measure('usage.recent', () => ingest.usage.recent.query({ merchantId: MERCHANT, limit: 100 }));
    await measure('usage.explain', () =>
      ingest.usage.explain.query({ merchantId: MERCHANT, date: today, metricType: 'cost' }),
    );
    await measure('usage.adjust', () =>
      ingest.usage.adjust.mutate({
        ...{ id: 'bench', merchantId: MERCHANT, date: today, reason: 'a bench' },
        metrics: { cost: '1' },
      }),
    );
    await measure('usage.void', () => ingest.usage.void.mutate({ merchantId: MERCHANT, id: '0-0', reason: 'a bench' }));
    await measure('reconcile.check', () => ingest.reconcile.check.query(day));
    await db.shards.release(lease);
    await measure('flush.beforeRead', () => ingest.flush.beforeRead.mutate({}));
    await measure('flush.drain', () => ingest.flush.drain.mutate({}));
    await measure('reconcile.check, flushed', () => ingest.reconcile.check.query(day));
    await db.close();
    return measured;
  });
}

/** Records the events, each with an id and a user of its own. */
async function fill(port, merchants) {
  const size = EVENTS / BATCH;
  let batch = 0;
  const bodyOf = () => {
    const entries = Array.from({ length: BATCH }, (_, at) => ({
      ...{ id: `${batch}-${at}`, merchantId: `m${(batch * BATCH + at) % merchants}` },
      ...{ userId: `u${batch % 100}-${at}`, model: `m${at % 8}` },
      metrics: { prompt_tokens: '7', cost: '0.001' },
    }));
    batch++;
    return JSON.stringify({ entries });
  };
  while (batch < size)
    await load({ port, path: '/trpc/usage.record', bodyOf, connections: 4, seconds: 1, warmUpMs: 0 });
  console.log(`${batch * BATCH} events recorded`);
}

/** Reads every 50 ms the memory of a process; returns a function that stops this and returns the maximum, in MiB. */
function watch(pid) {
  let most = memoryOf(pid);
  const timer = setInterval(() => {
    most = Math.max(most, memoryOf(pid));
  }, 50);
  return async () => {
    clearInterval(timer);
    return Math.round(most);
  };
}

function seconds(started) {
  return Math.round((performance.now() - started) / 100) / 10;
}

function brief(answer) {
  if (answer?.error) return answer.error.slice(0, 90);
  const { complete, balanced, recordsAggregated, drift } = answer ?? {};
  return JSON.stringify({ complete, balanced, recordsAggregated, drift: drift?.length });
}
