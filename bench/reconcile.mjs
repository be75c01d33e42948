import { writeFile } from 'node:fs/promises';
import { setTimeout as wait } from 'node:timers/promises';
import pg from 'pg';
import { createIngestClient } from '../packages/contracts/dist/client.js';
import { KEY, machine, withServers, withService } from './servers.mjs';

// Measures the hourly reconciliation of many merchants of which a part changed since the last one, beside traffic, with
// the flush lag meanwhile; then the repair of all totals after a restart of Redis, with that lag; then the nightly
// comparison of all. BENCH_MERCHANTS (53,000); BENCH_CHANGED (0.01): the part that changes; BENCH_NIGHTLY=0 leaves the
// nightly one out.
const MERCHANTS = Number(process.env.BENCH_MERCHANTS ?? 53_000);
const CHANGED = Math.round(MERCHANTS * Number(process.env.BENCH_CHANGED ?? 0.01));
const EVERY_MS = 20_000;
const BATCH = 500;
const DAY_MS = 86_400_000;
/** Merchants' days that the next pass must compare. */
const UNCHECKED = `
  left join usage_checks as done on done.date = day.period and done.merchant_id = day.merchant_id
  where day.grain = 'day' and done.changes is distinct from day.changes`;

const result = await withServers((servers) =>
  withService('usage-ingest', servers, { RECONCILE_INTERVAL_MS: String(EVERY_MS) }, async ({ url }) => {
    const client = createIngestClient({ url, key: KEY });
    const sql = new pg.Client({ connectionString: servers.databaseUrl });
    await sql.connect();
    const all = Array.from({ length: MERCHANTS }, (_, index) => `merchant-${index}`);
    await record(client, all, 'first', 0);
    await drained(client);
    console.error(`${MERCHANTS} merchants recorded`);
    await untilChecked(sql);
    console.error('all checked once', await lastPass(url));

    // A third of the changed merchants change an earlier day.
    const changed = all.filter((_, index) => index % Math.floor(MERCHANTS / CHANGED) === 0).slice(0, CHANGED);
    const before = await lastPass(url);
    await record(client, changed, 'second', 0);
    await record(client, changed.slice(0, CHANGED / 3), 'late', 2 * DAY_MS);
    await client.flush.drain.mutate({});
    const { rows } = await sql.query(`select count(*)::int as days from usage_changes as day ${UNCHECKED}`);
    const traffic = startTraffic(client, changed);
    const passLags = await lagsUntil(url, ({ at }) => at !== before.at);
    const { seconds } = await lastPass(url);
    const hourly = { merchants: MERCHANTS, changedDays: rows[0].days, seconds, ...passLags };
    console.error(hourly);

    await servers.redis.kill();
    await servers.redis.start();
    const restarted = performance.now();
    // Until Redis has answered, the number of shards is unknown.
    await lagsUntil(url, ({ unrepaired }) => unrepaired > 0);
    const repairLags = await lagsUntil(url, ({ unrepaired }) => unrepaired === 0);
    const restart = { seconds: (performance.now() - restarted) / 1_000, ...repairLags };
    console.error(restart);
    await traffic.stop();
    await sql.end();
    if (process.env.BENCH_NIGHTLY === '0') return { hourly, restart };
    await drained(client);
    const started = performance.now();
    const { balanced } = await client.reconcile.repair.mutate({});
    return { hourly, restart, nightly: { balanced, seconds: (performance.now() - started) / 1_000 } };
  }),
);
console.log(machine());
console.table(result);
await writeFile(
  new URL('results/reconcile.json', import.meta.url),
  `${JSON.stringify({ machine: machine(), date: new Date().toISOString().slice(0, 10), ...result }, null, 2)}\n`,
);

async function record(client, merchantIds, session, ageMs) {
  const time = new Date(Date.now() - ageMs).toISOString();
  const batches = [];
  for (let from = 0; from < merchantIds.length; from += BATCH) batches.push(merchantIds.slice(from, from + BATCH));
  const worker = async () => {
    for (let batch = batches.pop(); batch; batch = batches.pop()) {
      const entries = batch.map((merchantId) => ({
        id: `${session}-${merchantId}`,
        merchantId,
        time,
        userId: 'user',
        model: 'gpt-4o',
        provider: 'openai',
        metrics: { prompt_tokens: '374', completion_tokens: '44', cost: '0.0023' },
      }));
      await client.usage.record.mutate({ entries });
    }
  };
  await Promise.all([worker(), worker(), worker(), worker()]);
}

/** Traffic of the changed merchants: others would add to the work of the pass. */
function startTraffic(client, merchantIds) {
  let stopping = false;
  const done = (async () => {
    for (let batch = 0; !stopping; batch++) {
      const some = Array.from(
        { length: 100 },
        (_, index) => merchantIds[(batch * 7919 + index * 104_729) % merchantIds.length],
      );
      await record(client, [...new Set(some)], `traffic-${batch}`, 0);
      await wait(100);
    }
  })();
  return {
    async stop() {
      stopping = true;
      await done;
    },
  };
}

async function drained(client) {
  while (!(await client.flush.drain.mutate({})).complete) await wait(100);
}

/** Returns when the last hourly pass ended, and how long it took. */
async function lastPass(url) {
  const text = await (await fetch(`${url}/metrics`)).text();
  const value = (name) => Number(new RegExp(`^${name} (\\S+)$`, 'm').exec(text)?.[1] ?? 0);
  return {
    at: value('tally_reconcile_last_timestamp_seconds'),
    seconds: value('tally_reconcile_duration_seconds'),
    lagSeconds: value('tally_flush_lag_seconds'),
    unrepaired: value('tally_totals_unrepaired_shards'),
  };
}

/** Samples the flush lag until the last pass, or the number of shards to repair, is as wanted. */
async function lagsUntil(url, isReached) {
  const lags = [];
  for (let seen = await lastPass(url); !isReached(seen); seen = await lastPass(url)) {
    // The lag is not a number while Redis is unavailable.
    if (!Number.isNaN(seen.lagSeconds)) lags.push(seen.lagSeconds * 1_000);
    await wait(100);
  }
  return lagsOf(lags.sort((a, b) => a - b));
}

async function untilChecked(sql) {
  for (;;) {
    const { rows } = await sql.query(`select count(*)::int as days from usage_changes as day ${UNCHECKED}`);
    if (rows[0].days === 0) return;
    await wait(500);
  }
}

function lagsOf(lags) {
  return {
    lagMsP50: lags[Math.floor(lags.length / 2)],
    lagMsP99: lags[Math.floor(lags.length * 0.99)],
    lagMsMax: lags.at(-1),
  };
}
