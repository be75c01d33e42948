// How fast questions about 365 days × 10,000 users are answered, beside the plain ways, in one run: the documents of the days
// summed in the service, and the same question on raw daily rows. Nothing is cached but where a row says so.
//   node bench/query.mjs [users] [days]      (after a build; servers of its own)
import { spawn } from 'node:child_process';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { createDays } from '../apps/analytics-api/dist/days.js';
import { planOf } from '../apps/analytics-api/dist/plan.js';
import { createAnalyticsClient } from '../packages/contracts/dist/client.js';
import { openDb } from '../packages/db/dist/index.js';
import { KEY, machine, withServers, withService } from './servers.mjs';

const pg = createRequire(new URL('../packages/db/package.json', import.meta.url))('pg');
const users = Number(process.argv[2] ?? 10_000);
const days = Number(process.argv[3] ?? 365);
const runs = Number(process.env.RUNS ?? 9);
const END = '2025-12-31';
const startOf = (count) => new Date(Date.parse(END) - (count - 1) * 86_400_000).toISOString().slice(0, 10);
const rows = [];

await withServers(async (servers) => {
  await seed(servers.databaseUrl);
  await measureReads(servers.databaseUrl);
  const sealing = await measureDocuments(servers.databaseUrl);
  const exports = await measureService(servers);
  const report = { machine: machine(), users, days, rows, ...sealing, exports };
  await mkdir(new URL('./results/', import.meta.url), { recursive: true });
  await writeFile(new URL('./results/query.json', import.meta.url), `${JSON.stringify(report, null, 2)}\n`);
  console.table(rows);
  console.log(sealing);
  console.table(exports);
});

async function withClient(url, work) {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

/**
 * One row for each user and day, of one of 5 models; the cubes are summed from it as the flush would have. Before it two
 * years of months and of days of models, and the days of each November: for what is compared, and for ranges that end then.
 */
async function seed(url) {
  const sums = 'sum(requests), sum(failed_requests), sum(prompt_tokens), sum(completion_tokens), sum(cost)';
  await withClient(url, async (client) => {
    await client.query(
      `insert into usage_daily
       select 'acme', day::date, 'user-' || lpad(n::text, 5, '0'), 'key-' || n % 200, 'model-' || n % 5, 'provider-' || n % 2,
         1 + n % 7, n % 2, 100 + n % 900, 50 + n % 400, 1000000 + n
       from generate_series($1::date, $2::date, interval '1 day') as day, generate_series(1, $3) as n
       order by 1, 2, 3`,
      [startOf(days), END, users],
    );
    await client.query(`insert into usage_monthly
      select merchant_id, date_trunc('month', date)::date, user_id, api_key, model, provider, ${sums}
      from usage_daily group by 1, 2, 3, 4, 5, 6 order by 1, 2, 3`);
    await client.query(`insert into usage_daily_models
      select merchant_id, date, model, provider, ${sums} from usage_daily group by 1, 2, 3, 4`);
    for (const [table, column, which] of [
      ['usage_monthly', 'month', 'true'],
      ['usage_daily_models', 'date', 'true'],
      ['usage_daily', 'date', 'extract(month from date) = 11'],
    ]) {
      const { rows: names } = await client.query(
        `select column_name as name from information_schema.columns where table_name = $1 order by ordinal_position`,
        [table],
      );
      const values = names.map(({ name }) =>
        name === column ? `(${name} - make_interval(years => ago))::date` : name,
      );
      await client.query(
        `insert into ${table} select ${values.join(', ')} from ${table}, generate_series(1, 2) as ago
         where ${which} order by 1, 2, 3 on conflict do nothing`,
      );
    }
    await client.query(`insert into usage_yearly
      select merchant_id, date_trunc('year', month)::date, user_id, api_key, model, provider, ${sums}
      from usage_monthly group by 1, 2, 3, 4, 5, 6 order by 1, 2, 3`);
    await client.query('vacuum (analyze)');
  });
}

async function measure(question, way, work, times = runs, warmUp = 1) {
  const taken = [];
  for (let run = 0; run < warmUp; run++) await work();
  for (let run = 0; run < times; run++) {
    const started = performance.now();
    await work();
    taken.push(performance.now() - started);
  }
  taken.sort((a, b) => a - b);
  const at = (share) => Math.round(taken[Math.min(taken.length - 1, Math.floor(share * taken.length))] * 10) / 10;
  rows.push({ question, way, p50Ms: at(0.5), p90Ms: at(0.9) });
}

async function measureReads(url) {
  const db = await openDb(url, { poolSize: 4, applicationName: 'bench', parallelWorkers: 0 });
  const page = { sortBy: 'cost', order: 'desc', limit: 50 };
  const ask = (by, startDate, entities, filters = {}, endDate = END) => {
    const parts = planOf({ startDate, endDate }, { entities, days: false, sums: by !== 'model' });
    return () => db.usage.breakdown({ ...page, ...filters, by, parts });
  };
  for (const count of [1, 7, 30, 90, 180, days])
    await measure(`by user, ${count} days`, 'plan', ask('user', startOf(count), true));
  await measure('by user, 365 days to 23 November', 'plan', ask('user', '2024-11-24', true, {}, '2025-11-23'));
  // Both ends in the middle of a month: the dearest there is.
  const edges = ask('user', '2025-01-16', true, {}, '2025-12-15');
  await measure('by user, 16 January to 15 December', 'plan', edges);
  await measure(
    `by user of one model, ${days} days`,
    'plan',
    ask('user', startOf(days), true, { models: ['model-1'] }),
  );
  await measure(`by model, ${days} days`, 'plan', ask('model', startOf(days), false));
  await measure(`by provider, ${days} days`, 'plan', ask('provider', startOf(days), false));
  const parts = [{ cube: 'usage_daily', startDate: startOf(days), endDate: END }];
  for (const by of ['user', 'model'])
    await measure(`by ${by}, ${days} days`, 'daily rows', () => db.usage.breakdown({ ...page, by, parts }), 3);
  await db.close();
}

/** Making the documents of the year, what their indexes weigh, and the question asked of them. */
async function measureDocuments(url) {
  const db = await openDb(url, { poolSize: 4, applicationName: 'bench', parallelWorkers: 0 });
  const cover = async () => ({ complete: true, dataSource: 'cache', asOf: null });
  const sealed = createDays({ db, freshness: { cover }, maxDays: 1100, now: Date.now, onProgress() {} });
  const started = performance.now();
  const range = { startDate: startOf(days), endDate: END };
  const { rebuilt } = await sealed.rebuild({ ...range, onlyStale: false }, { merchantId: null });
  const rebuildSeconds = Math.round((performance.now() - started) / 100) / 10;
  await db.close();
  return withClient(url, async (client) => {
    await measure(
      `by user, ${days} days`,
      'day documents',
      async () => {
        const sums = new Map();
        const question = 'select aggregated_by_user as users from daily_usage_cache where date >= $1';
        for (const { users } of (await client.query(question, [startOf(days)])).rows) {
          for (const [key, value] of Object.entries(users)) {
            const sum = sums.get(key) ?? { requests: 0, cost: 0 };
            sum.requests += value.totalRequests;
            sum.cost += value.cost;
            sums.set(key, sum);
          }
        }
        return [...sums].sort((a, b) => b[1].cost - a[1].cost).slice(0, 50);
      },
      1,
    );
    const { rows: sizes } = await client.query(`
      select pg_indexes_size('daily_usage_cache') as indexes, pg_table_size('daily_usage_cache') as documents`);
    const mb = (bytes) => Math.round(Number(bytes) / 1e6);
    return { rebuilt, rebuildSeconds, documentsMb: mb(sizes[0].documents), indexesMb: mb(sizes[0].indexes) };
  });
}

/** Through the service, over HTTP: whole answers, with and without the cache, and exports of a million rows. */
async function measureService(servers) {
  const settings = { ADMIN_ANALYTICS_RATE_LIMIT: '1000000', ADMIN_EXPORT_RATE_LIMIT: '1000000' };
  const range = { startDate: startOf(days), endDate: END };
  return withService('usage-ingest', servers, {}, async (ingest) => {
    const asked = async (way, more, ...counts) =>
      withService('analytics-api', servers, { ...settings, USAGE_INGEST_URL: ingest.url, ...more }, async ({ url }) => {
        const client = createAnalyticsClient({ url, key: KEY });
        await measure(`summary with trends, ${days} days`, way, () => client.analytics.summary.query(range), ...counts);
        const rolling = { startDate: '2024-11-24', endDate: '2025-11-23' };
        await measure(
          'summary, 365 days to 23 November',
          way,
          () => client.analytics.summary.query(rolling),
          ...counts,
        );
        const month = { ...range, startDate: startOf(30) };
        await measure('summary with trends, 30 days', way, () => client.analytics.summary.query(month), ...counts);
        for (const by of ['user', 'model'])
          await measure(
            `by ${by}, ${days} days`,
            way,
            () => client.analytics.breakdown.query({ ...range, by }),
            ...counts,
          );
      });
    // A service that has run for a while, and one that has not: what is compiled late weighs most where little else is done.
    await asked('over HTTP', { ENABLE_ANALYTICS_CACHE: 'false' }, runs, 20);
    await asked('over HTTP, from the cache, just started', {}, 300, 1);
    await asked('over HTTP, from the cache', {}, 300, 2_000);
    const files = [];
    for (const format of ['csv', 'ndjson', 'xlsx'])
      files.push(
        await withService(
          'analytics-api',
          servers,
          { ...settings, USAGE_INGEST_URL: ingest.url },
          async ({ url, pid }) => exported(url, pid, format),
        ),
      );
    return files;
  });
}

/** About a million rows, read by curl as fast as they come; the peak of the service's memory is its own (VmHWM). */
async function exported(url, pid, format) {
  const count = Math.min(days, Math.ceil(1_000_000 / users));
  const address = `${url}/export/usage.${format}?startDate=${startOf(count)}&endDate=${END}`;
  const peak = async () => Number(/VmHWM:\s+(\d+)/.exec(await readFile(`/proc/${pid}/status`, 'utf8'))[1]) / 1000;
  const before = await peak();
  const started = performance.now();
  const curl = spawn('curl', [
    '-sf',
    '-o',
    '/dev/null',
    '-w',
    '%{size_download}',
    '-H',
    `authorization: Bearer ${KEY}`,
    address,
  ]);
  let size = '';
  curl.stdout.on('data', (chunk) => {
    size += chunk;
  });
  const code = await new Promise((resolve) => curl.once('exit', resolve));
  if (code !== 0) throw new Error(`curl ended with ${code}`);
  const seconds = (performance.now() - started) / 1000;
  return {
    format,
    rows: count * users,
    seconds: Math.round(seconds * 10) / 10,
    rowsPerSecond: Math.round((count * users) / seconds),
    megabytes: Math.round(Number(size) / 1e6),
    peakRssMb: Math.round(await peak()),
    rssBeforeMb: Math.round(before),
  };
}
