// Measures metrics-engine, each part beside a baseline in the same run: observations over HTTP beside HINCRBY; rollups
// of 365 days × users beside loading the rows and summing them in the service; a custom metric beside hand-written SQL.
// node bench/engine.mjs [users] [users of the daily backfill]
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { createEngineClient } from '../packages/contracts/dist/client.js';
import { MEASURES } from '../packages/contracts/dist/index.js';
import { load } from './load.mjs';
import { KEY, machine, redisIncrBy, withServers, withService } from './servers.mjs';

const pg = createRequire(new URL('../packages/db/package.json', import.meta.url))('pg');
const { createTRPCClient, httpBatchLink } = createRequire(
  new URL('../packages/contracts/package.json', import.meta.url),
)('@trpc/client');
const users = Number(process.argv[2] ?? 10_000);
const fewer = Number(process.argv[3] ?? 500);
const seconds = Number(process.env.SECONDS ?? 8);
const YEAR = { startDate: '2025-01-01', endDate: '2025-12-31' };

const report = await withServers(async (servers) => {
  const client = new pg.Client({ connectionString: servers.databaseUrl });
  await client.connect();
  try {
    return await withService(
      'metrics-engine',
      servers,
      {
        ...{ ENABLE_METRICS_SCHEDULER: 'false', CUSTOM_COST_LIMIT: '1000000000', CUSTOM_TIMEOUT_MS: '600000' },
        ...{ MAX_CALLS_AT_ONCE: '1000', MAX_CALLS_PER_MINUTE: '1000000000' },
      },
      async ({ url, port, pid }) => {
        const engine = createEngineClient({ url, key: KEY });
        const observations = await observe(servers, { engine, url, port, pid });
        await seed(client, users);
        const rollups = await compareRollups(client, engine);
        const custom = await compareCustom(client, engine);
        await client.query(
          'truncate usage_daily, usage_monthly, merchant_usage, daily_metrics, weekly_metrics, monthly_metrics',
        );
        await seed(client, fewer);
        const backfill = await backfillYear(engine);
        return { machine: machine(), users, usersOfDailyBackfill: fewer, observations, rollups, custom, backfill };
      },
    );
  } finally {
    await client.end();
  }
});
await mkdir(new URL('./results/', import.meta.url), { recursive: true });
await writeFile(new URL('./results/engine.json', import.meta.url), `${JSON.stringify(report, null, 2)}\n`);
for (const name of ['observations', 'rollups', 'custom', 'backfill']) console.table(report[name]);

/** Acknowledged observations per second; each variant ends with the stored count. */
async function observe(servers, { engine, url, port, pid }) {
  // The typed client sends each call by itself; this one sends calls of one moment together, as many as
  // MAX_BATCH_CALLS.
  const headers = { authorization: `Bearer ${KEY}` };
  const batching = createTRPCClient({ links: [httpBatchLink({ url: `${url}/trpc`, headers, maxItems: 20 })] });
  const limit = redisIncrBy(servers.redisUrl, { command: ['HINCRBY', 'bench:hash', '__rand_int__', '1'] });
  const rows = [{ way: 'redis-benchmark HINCRBY, 50 clients', perSecond: Math.round(limit) }];
  const values = (count) => Array.from({ length: count }, (_, index) => `${(index * 7919) % 10_000}.25`);
  const path = '/trpc/realtime.observe';
  const ways = [
    { name: 'single', way: 'one value a call, 32 callers', callers: 32, each: 1 },
    { name: 'spread', way: 'one value a call, 500 series, 32 callers', callers: 32, each: 1, series: 500 },
    {
      name: 'typed',
      way: 'one value a call, 50 calls at once, 8 callers, typed client',
      callers: 8,
      each: 50,
      by: engine,
    },
    { name: 'gathered', way: 'the same, 20 calls a request by httpBatchLink', callers: 8, each: 50, by: batching },
    { name: 'batch100', way: '100 values a call, 8 callers', callers: 8, each: 100 },
    { name: 'batch1000', way: '1000 values a call, 8 callers', callers: 8, each: 1000 },
  ];
  for (const { name, way, callers, each, series = 1, by } of ways) {
    const labels = Array.from({ length: series }, (_, index) => ({ series: String(index) }));
    const bodies = labels.map((own) =>
      JSON.stringify({ name, labels: own, values: values(each), windowSeconds: 3600 }),
    );
    let sent = 0;
    const cpuBefore = await cpuOf(pid);
    const { calls, seconds: taken } = by
      ? await gather(by, { name, labels: labels[0], values: values(each), callers, count: () => sent++ })
      : await load({ port, path, bodyOf: () => bodies[sent++ % series], connections: callers, seconds });
    const cpu = (await cpuOf(pid)) - cpuBefore;
    let stored = 0;
    for (const own of labels) stored += Number((await engine.realtime.get.query({ name, labels: own })).count);
    const perSecond = Math.round((calls * each) / taken);
    rows.push({
      way,
      perSecond,
      ofHincrby: Math.round((100 * perSecond) / limit) / 100,
      serviceCpuMicrosEach: Math.round((cpu / (sent * each)) * 1e7) / 10,
      acknowledgedIsStored: stored === sent * each,
    });
  }
  return rows;
}

/** Calls of a TypeScript client, 50 at a time. */
async function gather(client, { name, labels, values, callers, count }) {
  let calls = 0;
  const started = performance.now();
  const caller = async () => {
    while (performance.now() - started < seconds * 1000) {
      count();
      await Promise.all(
        values.map((value) => client.realtime.observe.mutate({ name, labels, value, windowSeconds: 3600 })),
      );
      calls++;
    }
  };
  await Promise.all(Array.from({ length: callers }, caller));
  return { calls, seconds: (performance.now() - started) / 1000 };
}

/** Returns the CPU seconds that a process has used. */
async function cpuOf(pid) {
  const fields = (await readFile(`/proc/${pid}/stat`, 'utf8')).split(') ')[1].split(' ');
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

/** Writes one row per user and day, with the sums that the flush would have written. */
async function seed(client, count) {
  await client.query(
    `insert into usage_daily
     select 'acme', day::date, 'user-' || lpad(n::text, 5, '0'), '', 'model-' || n % 5, 'provider-' || n % 2,
       1 + n % 7, n % 2, 100 + n % 900, 50 + n % 400, 1000000 + n
     from generate_series($1::date, $2::date, interval '1 day') as day, generate_series(1, $3::int) as n
     order by 1, 2, 3`,
    [YEAR.startDate, YEAR.endDate, count],
  );
  await client.query(`insert into usage_monthly
    select merchant_id, date_trunc('month', date)::date, user_id, api_key, model, provider,
      ${MEASURES.map((name) => `sum(${name})`).join(', ')}
    from usage_daily group by 1, 2, 3, 4, 5, 6 order by 1, 2, 3`);
  await client.query(`insert into merchant_usage (merchant_id, date, metric_type, metric_value)
    select merchant_id, date, metric_type, sum(value) from usage_daily
    cross join lateral (values ${MEASURES.map((name) => `('${name}', ${name})`).join(', ')})
      as measure (metric_type, value)
    group by 1, 2, 3`);
  await client.query('vacuum (analyze)');
}

async function compareRollups(client, engine) {
  const rows = [];
  for (const [grain, date, previous, start, end] of [
    ['daily', '2025-12-10', '2025-12-09', '2025-12-10', '2025-12-10'],
    ['weekly', '2025-12-10', '2025-12-01', '2025-12-08', '2025-12-14'],
    ['monthly', '2025-11-10', '2025-10-01', '2025-11-01', '2025-11-30'],
  ]) {
    const run = await engine.rollups[grain].run.mutate({ date });
    const again = await engine.rollups[grain].run.mutate({ date });
    const started = performance.now();
    const { rows: found } = await client.query(
      `select date, user_id, model, provider, ${MEASURES.join(', ')} from usage_daily where date between $1 and $2`,
      [previous, end],
    );
    const sums = new Map();
    for (const row of found) {
      const before = row.date < new Date(start);
      for (const key of [`u${row.user_id}`, `m${row.model}`, `p${row.provider}`]) {
        const sum = sums.get(key) ?? { now: MEASURES.map(() => 0n), before: MEASURES.map(() => 0n) };
        const into = before ? sum.before : sum.now;
        MEASURES.forEach((name, index) => {
          into[index] += BigInt(row[name]);
        });
        sums.set(key, sum);
      }
    }
    const summedMs = Math.round(performance.now() - started);
    rows.push({
      rollup: grain,
      rowsWritten: run.rowsWritten,
      firstMs: Math.round(run.durationMs),
      againMs: Math.round(again.durationMs),
      loadedAndSummedMs: summedMs,
      rowsLoaded: found.length,
    });
  }
  return rows;
}

async function backfillYear(engine) {
  const rows = [];
  for (const grain of ['daily', 'weekly', 'monthly']) {
    const { rowsWritten, durationMs, periods } = await engine.rollups[grain].backfill.mutate(YEAR);
    rows.push({
      backfill: grain,
      periods: periods.length,
      rowsWritten,
      seconds: Math.round(durationMs / 100) / 10,
      rowsPerSecond: Math.round(rowsWritten / (durationMs / 1000)),
    });
  }
  return rows;
}

async function compareCustom(client, engine) {
  const rows = [];
  for (const [name, formula, sql] of [
    ['cost per user', 'SUM(cost) / COUNT(DISTINCT user_id)', 'sum(cost) * 0.000000001 / count(distinct user_id)'],
    ['failure rate', 'SUM(failed_requests) / SUM(requests)', 'sum(failed_requests) / sum(requests)'],
    [
      'median tokens',
      'PERCENTILE_CONT(0.5) WITHIN GROUP (ORDER BY total_tokens)',
      'percentile_cont(0.5) within group (order by prompt_tokens + completion_tokens)',
    ],
  ]) {
    const definition = { metricType: 'RATIO', dataSource: 'usage', calculationFormula: formula, ...YEAR };
    const taken = { metric: [], sql: [] };
    for (let run = 0; run < 3; run++) {
      let started = performance.now();
      await engine.custom.test.mutate(definition);
      taken.metric.push(performance.now() - started);
      started = performance.now();
      await client.query(`select ${sql} from usage_daily where date between '2025-01-01' and '2025-12-31'`);
      taken.sql.push(performance.now() - started);
    }
    const best = (times) => Math.round(Math.min(...times));
    rows.push({ metric: name, engineMs: best(taken.metric), handWrittenMs: best(taken.sql) });
  }
  return rows;
}
