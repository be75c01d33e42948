// How fast questions about 365 days × 10,000 users are answered, beside the two plain ways, in one run: the documents of
// the days summed in the service, and the same question on raw daily rows. Nothing is cached by the service.
//   DATABASE_URL=postgres://… node bench/query.mjs [users] [days]      (a server on which databases may be made)
import { mkdir, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { cpus } from 'node:os';
import { planOf } from '../apps/analytics-api/dist/plan.js';
import { migrate, openDb } from '../packages/db/dist/index.js';

const pg = createRequire(new URL('../packages/db/package.json', import.meta.url))('pg');
const users = Number(process.argv[2] ?? 10_000);
const days = Number(process.argv[3] ?? 365);
const runs = Number(process.env.RUNS ?? 7);
const server = process.env.DATABASE_URL;
const name = `bench_query_${process.pid}`;
const url = Object.assign(new URL(server), { pathname: `/${name}` }).toString();
const END = '2025-12-31';
const startOf = (count) => new Date(Date.parse(END) - (count - 1) * 86_400_000).toISOString().slice(0, 10);

const admin = new pg.Client({ connectionString: server });
await admin.connect();
await admin.query(`create database ${name}`);
try {
  await migrate(url);
  await seed();
  const report = await measure();
  await mkdir(new URL('./results/', import.meta.url), { recursive: true });
  await writeFile(new URL('./results/query.json', import.meta.url), `${JSON.stringify(report, null, 2)}\n`);
  console.table(report.rows);
} finally {
  await admin.query(`drop database ${name} with (force)`);
  await admin.end();
}

/** One row for each user and day, of one of 5 models; the cubes are summed from it as the flush would have. */
async function seed() {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  await client.query(
    `insert into usage_daily
     select 'acme', day::date, 'user-' || lpad(n::text, 5, '0'), 'key-' || n % 200, 'model-' || n % 5, 'provider-' || n % 2,
       1 + n % 7, n % 2, 100 + n % 900, 50 + n % 400, 1000000 + n
     from generate_series($1::date, $2::date, interval '1 day') as day, generate_series(1, $3) as n
     order by 1, 2, 3`,
    [startOf(days), END, users],
  );
  const sums = 'sum(requests), sum(failed_requests), sum(prompt_tokens), sum(completion_tokens), sum(cost)';
  await client.query(`insert into usage_monthly
    select merchant_id, date_trunc('month', date)::date, user_id, api_key, model, provider, ${sums}
    from usage_daily group by 1, 2, 3, 4, 5, 6 order by 1, 2, 3`);
  await client.query(`insert into usage_daily_models
    select merchant_id, date, model, provider, ${sums} from usage_daily group by 1, 2, 3, 4`);
  await client.query('vacuum (analyze)');
  await client.end();
}

async function measure() {
  const db = await openDb(url, { poolSize: 4, applicationName: 'bench' });
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  const rows = [];
  const add = async (question, way, work, times = runs) => {
    const taken = [];
    await work();
    for (let run = 0; run < times; run++) {
      const started = performance.now();
      await work();
      taken.push(performance.now() - started);
    }
    taken.sort((a, b) => a - b);
    const at = (share) => Math.round(taken[Math.min(taken.length - 1, Math.floor(share * taken.length))] * 10) / 10;
    rows.push({ question, way, p50Ms: at(0.5), p90Ms: at(0.9) });
  };
  const page = { sortBy: 'cost', order: 'desc', limit: 50 };
  const ask = (by, count, entities, filters = {}) => {
    const parts = planOf({ startDate: startOf(count), endDate: END }, { entities, days: false });
    return () => db.usage.breakdown({ ...page, ...filters, by, parts });
  };

  const documents = [];
  const sealing = performance.now();
  for (let day = 0; day < days; day += 14) {
    const batch = Array.from({ length: Math.min(14, days - day) }, (_, index) => ({
      date: startOf(days - day - index),
      status: 'complete',
    }));
    documents.push(await db.days.rebuild(batch));
  }
  const rebuildMs = Math.round(performance.now() - sealing);

  for (const count of [1, 7, 30, 90, 180, days]) await add(`by user, ${count} days`, 'plan', ask('user', count, true));
  await add(`by user of one model, ${days} days`, 'plan', ask('user', days, true, { models: ['model-1'] }));
  await add(`by model, ${days} days`, 'plan', ask('model', days, false));
  await add(`by provider, ${days} days`, 'plan', ask('provider', days, false));
  const raw = [{ cube: 'usage_daily', startDate: startOf(days), endDate: END }];
  await add(`by user, ${days} days`, 'daily rows', () => db.usage.breakdown({ ...page, by: 'user', parts: raw }), 3);
  await add(`by model, ${days} days`, 'daily rows', () => db.usage.breakdown({ ...page, by: 'model', parts: raw }), 3);
  await add(
    `by user, ${days} days`,
    'day documents',
    async () => {
      const sums = new Map();
      const found = await client.query('select aggregated_by_user from daily_usage_cache where date >= $1', [
        startOf(days),
      ]);
      for (const { aggregated_by_user: users } of found.rows) {
        for (const [key, value] of Object.entries(users)) {
          const sum = sums.get(key) ?? { requests: 0, cost: 0 };
          sum.requests += value.totalRequests;
          sum.cost += value.cost;
          sums.set(key, sum);
        }
      }
      return [...sums].sort((a, b) => b[1].cost - a[1].cost).slice(0, 50);
    },
    3,
  );
  const explained = [];
  for (const [table, column] of [
    ['usage_monthly', 'month'],
    ['usage_daily', 'date'],
    ['usage_daily_models', 'date'],
  ]) {
    const { rows: plan } = await client.query(
      `explain select sum(cost) from ${table} where merchant_id = any('{acme}') and ${column} between '2025-12-01' and '2025-12-07'`,
    );
    explained.push({ table, index: /Index|Bitmap/.test(plan.map((line) => line['QUERY PLAN']).join(' ')) });
  }
  await client.end();
  await db.close();
  return {
    machine: { cpus: cpus().length, model: cpus()[0]?.model, node: process.version },
    users,
    days,
    rebuildMs,
    rows,
    explained,
  };
}
