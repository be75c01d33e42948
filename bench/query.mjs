// How fast queries are answered, beside the naive design (one table of events and GROUP BY) in the same run.
//   node bench/query.mjs [merchants] [users] [what]      (after a build; servers of its own)
// `what`: any of plans, http, readers, exports, documents, joined by commas; default: plans,http,exports.
// One merchant, acme, has `users` users on each of 365 days; up to 2,000 others have two users each day, further ones
// ten on the last day. On each of the last 30 days 5 % of the merchants have events that are still to be derived.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { connect } from 'node:net';
import { createCache } from '../apps/analytics-api/dist/cache.js';
import { createDays } from '../apps/analytics-api/dist/days.js';
import { createDocuments } from '../apps/analytics-api/dist/documents.js';
import { createLabels } from '../apps/analytics-api/dist/labels.js';
import { createRead } from '../apps/analytics-api/dist/read.js';
import { createAnalyticsClient } from '../packages/contracts/dist/client.js';
import { MEASURES } from '../packages/contracts/dist/index.js';
import { openDb } from '../packages/db/dist/index.js';
import { createFairQueue } from '../packages/service/dist/index.js';
import { cpuSecondsOf } from './cpu.mjs';
import { load } from './load.mjs';
import { KEY, machine, withProgram, withServers, withService } from './servers.mjs';

const pg = createRequire(new URL('../packages/db/package.json', import.meta.url))('pg');
const merchants = Number(process.argv[2] ?? 2_000);
const users = Number(process.argv[3] ?? 10_000);
const what = new Set((process.argv[4] ?? 'plans,http,exports').split(','));
const runs = Number(process.env.RUNS ?? 40);
const END = '2026-11-22';
const FULL = Math.min(merchants - 1, 2_000);
const DAYS = 365;
const DIRTY_DAYS = 30;
const back = (count, end = END) => new Date(Date.parse(end) - (count - 1) * 86_400_000).toISOString().slice(0, 10);
const ROLLING = { startDate: back(DAYS), endDate: END };
const ALIGNED = { startDate: '2025-12-01', endDate: '2026-10-31' };
/** Both edges are in the middle of a month, and both months have every user. */
const MIDDLE = { startDate: '2025-12-16', endDate: '2026-11-15' };
const MONTH = { startDate: back(30), endDate: END };
const rows = [];
const report = { machine: machine(), merchants, users };
const took = async (name, work) => {
  const started = performance.now();
  const answer = await work();
  console.log(`${name}: ${Math.round((performance.now() - started) / 100) / 10} s`);
  return answer;
};

const SUMS = 'count(*), count(*) filter (where failed), sum(prompt_tokens), sum(completion_tokens), sum(cost) as cost';
const within = ({ startDate, endDate }, merchant) =>
  `time >= '${startDate}T00:00:00Z' and time < '${endDate}T00:00:00Z'::timestamptz + interval '1 day' ${merchant ? `and merchant_id = '${merchant}'` : ''}`;
const naiveBy = (column, range, merchant) => (pool) =>
  pool.query(
    `select ${column}, ${SUMS} from events where ${within(range, merchant)} group by 1 order by cost desc limit 50`,
  );
/** A summary in the simple design: totals and users, now and before, days, the first users and models. */
const naiveSummary = (range) => async (pool) => {
  const days = (Date.parse(range.endDate) - Date.parse(range.startDate)) / 86_400_000 + 1;
  const before = { endDate: back(2, range.startDate), startDate: back(days + 1, range.startDate) };
  for (const each of [range, before]) {
    await pool.query(`select ${SUMS} from events where ${within(each)}`);
    await pool.query(
      `select count(*) from (select distinct merchant_id, user_id from events where ${within(each)}) as users`,
    );
  }
  await pool.query(`select time::date, ${SUMS} from events where ${within(range)} group by 1 order by 1`);
  await naiveBy('user_id', range)(pool);
  await naiveBy('model', range)(pool);
};

const BY_USER = { path: '/trpc/analytics.breakdown', body: JSON.stringify({ ...ROLLING, by: 'user' }) };
const SUMMARY = { path: '/trpc/analytics.summary', body: JSON.stringify(MONTH) };
const SLOW_READERS = 10;
const SETTINGS = { ADMIN_ANALYTICS_RATE_LIMIT: '1000000', ADMIN_EXPORT_RATE_LIMIT: '1000000' };

await withServers(async (servers) => {
  report.seeded = await took('seed', () => seed(servers.databaseUrl));
  // Else Postgres would write the seed during the first queries.
  await took('checkpoint', () => withClient(servers.superuserUrl, (client) => client.query('checkpoint')));
  if (what.has('plans')) await took('plans', () => measurePlans(servers.databaseUrl));
  if (what.has('documents')) report.documents = await measureDocuments(servers.databaseUrl);
  if (what.has('http')) report.cached = await took('http', () => measureHttp(servers));
  if (what.has('readers')) report.readers = await took('readers', () => measureBesideReaders(servers));
  if (what.has('exports')) report.exports = await took('exports', () => measureExports(servers));
  report.rows = rows;
  await mkdir(new URL('./results/', import.meta.url), { recursive: true });
  await writeFile(new URL('./results/query.json', import.meta.url), `${JSON.stringify(report, null, 2)}\n`);
  console.table(rows);
  for (const part of ['cached', 'readers', 'exports']) if (report[part]) console.table(report[part]);
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
 * Events for the naive table, and from them the journal's last days and every rollup, as flushes and derivations leave
 * them.
 */
async function seed(url) {
  const sums = MEASURES.map((name) => `sum(${name})`).join(', ');
  return withClient(url, async (client) => {
    const ask = (text, values = []) => client.query(text, values);
    await ask(`set work_mem = '256MB'`);
    await ask(`create table events (
      merchant_id text not null, id text not null, time timestamptz not null, user_id text, api_key text, model text,
      provider text, failed boolean not null, prompt_tokens bigint not null, completion_tokens bigint not null,
      cost numeric not null)`);
    const event = (merchant, user, from, to, n) => `
      insert into events
      select ${merchant}, (${n}) || '-' || day::date, day + interval '10 hours', ${user}, 'key-' || (${n}) % 200, 'model-' || (${n}) % 8,
        'provider-' || (${n}) % 3, (${n}) % 50 = 0, 100 + (${n}) % 900, 50 + (${n}) % 400, 0.001 + ((${n}) % 1000) * 0.000001
      from generate_series('${from}'::timestamptz, '${to}', interval '1 day') as day`;
    await ask(
      `${event(`'acme'`, `'user-' || lpad(n::text, 5, '0')`, back(DAYS), END, 'n')}, generate_series(1, $1::int) as n order by day`,
      [users],
    );
    await ask(
      `${event(`'m-' || m`, `'m-' || m || '-' || n`, back(DAYS), END, 'm * 2 + n')}, generate_series(1, $1::int) as m, generate_series(0, 1) as n order by day`,
      [FULL],
    );
    if (merchants - 1 > FULL)
      await ask(
        `${event(`'m-' || m`, `'m-' || m || '-' || n`, END, END, 'm * 10 + n')}, generate_series($1::int, $2::int) as m, generate_series(0, 9) as n`,
        [FULL + 1, merchants - 1],
      );
    await ask('alter table events add primary key (merchant_id, id)');
    // Events of the last days that were counted and are still to be derived: one for each dirty merchant and day.
    await ask(
      `create temp table late as
      select 'm-' || m as merchant_id, 'late-' || day::date as id, day::date as date, day + interval '11 hours' as time,
        'm-' || m || '-0' as user_id, 'model-' || m % 8 as model
      from generate_series($1::date, $2::date, interval '1 day') as day, generate_series(1, $3::int) as m
      where (m + extract(day from day)::int) % 20 = 0`,
      [back(DIRTY_DAYS), END, merchants - 1],
    );
    const day = `(time at time zone 'UTC')::date`;
    await ask(`insert into usage_daily
      select merchant_id, ${day}, user_id, api_key, model, provider, count(*), count(*) filter (where failed),
        sum(prompt_tokens), sum(completion_tokens), sum(cost * 1e9)::bigint
      from events group by 1, 2, 3, 4, 5, 6 order by 2, 1, 3`);
    const month = `date_trunc('month', date)::date`;
    const year = `date_trunc('year', month)::date`;
    for (const [table, columns, from] of [
      ['usage_monthly', ['merchant_id', month, 'user_id', 'api_key', 'model', 'provider'], 'usage_daily'],
      [
        'usage_quarter_months',
        ['merchant_id', 'usage_quarter_month(date)', 'user_id', 'api_key', 'model', 'provider'],
        'usage_daily',
      ],
      ['usage_yearly', ['merchant_id', year, 'user_id', 'api_key', 'model', 'provider'], 'usage_monthly'],
      ['usage_daily_models', ['merchant_id', 'date', 'model', 'provider'], 'usage_daily'],
      ['usage_monthly_models', ['merchant_id', month, 'model', 'provider'], 'usage_daily_models'],
      ['usage_platform_daily', ['date', 'model', 'provider'], 'usage_daily_models'],
      ['usage_platform_monthly', [month, 'model', 'provider'], 'usage_daily_models'],
      ['usage_platform_users', ['month', 'user_id'], 'usage_monthly'],
    ]) {
      const places = columns.map((_, at) => at + 1);
      // By time, like flushes and the nightly roll-up.
      const order = columns[0] === 'merchant_id' ? [2, 1, ...places.slice(2)] : places;
      await ask(
        `insert into ${table} select ${columns.join(', ')}, ${sums} from ${from} group by ${places} order by ${order}`,
      );
    }
    for (const [table, period] of [
      ['usage_monthly', 'month'],
      ['usage_quarter_months', 'quarter_month'],
      ['usage_yearly', 'year'],
    ])
      await ask(`insert into usage_rollup_rows select coalesce(merchant_id, ''), '${table}', ${period}, count(*)
        from ${table} group by grouping sets ((merchant_id, ${period}), (${period}))`);
    await ask(
      `insert into merchant_usage select merchant_id, date, 'requests', sum(requests) from usage_daily group by 1, 2`,
    );
    // A version of each merchant's days and months, as flushes leave them.
    for (const [grain, period] of [
      ['day', 'date'],
      ['month', month],
    ])
      await ask(`insert into usage_changes (grain, period, merchant_id, changes)
        select '${grain}', ${period}, merchant_id, count(*) from merchant_usage group by 2, 3 order by 2, 3`);
    // And compared, as a night leaves them: else usage-ingest compares the whole year beside the measurements.
    await ask(`insert into usage_checks (date, merchant_id, changes)
      select period, merchant_id, changes from usage_changes where grain = 'day'`);
    for (let count = DIRTY_DAYS; count > 0; count--) {
      const date = back(count);
      await ask(`create table if not exists usage_events_${date.replaceAll('-', '')} partition of usage_events
        for values from ('${date}') to ('${date}'::date + 1)`);
      const {
        rows: [{ id }],
      } = await ask(
        `insert into usage_flushes (source, entries, inserted, merchants, first_date, last_date, derived_at, summed)
        select 'stream', count(*), count(*), count(*), $1::date, $1::date, null, true from late where date = $1::date returning id`,
        [date],
      );
      await ask(
        `insert into usage_flush_sums (flush_id, date, model, provider, requests, prompt_tokens, completion_tokens, cost)
        select $2, date, model, 'provider-1', count(*), 100 * count(*), 50 * count(*), 1000000 * count(*) from late
        where date = $1::date group by date, model`,
        [date, id],
      );
      await ask(
        `insert into usage_events (date, merchant_id, id, time, user_id, api_key, model, provider, failed, calls, requests,
          prompt_tokens, completion_tokens, cost, flush_id)
        select date, merchant_id, id, time, user_id, 'key-1', model, 'provider-1', false, 1, 1, 100, 50, 1000000, $2 from late where date = $1::date`,
        [date, id],
      );
    }
    await ask(`insert into usage_daily select merchant_id, date, user_id, 'key-1', model, 'provider-1', 1, 0, 100, 50, 1000000 from late
      on conflict (merchant_id, date, user_id, api_key, model, provider) do update set requests = usage_daily.requests + 1,
        prompt_tokens = usage_daily.prompt_tokens + 100, completion_tokens = usage_daily.completion_tokens + 50, cost = usage_daily.cost + 1000000`);
    await ask(
      `insert into events select merchant_id, id, time, user_id, 'key-1', model, 'provider-1', false, 100, 50, 0.001 from late`,
    );
    await ask('vacuum (analyze)');
    const counts = {};
    for (const table of ['events', 'usage_daily', 'usage_quarter_months', 'usage_monthly', 'usage_yearly'])
      counts[table] = Number((await ask(`select count(*) as count from ${table}`)).rows[0].count);
    counts.pending = Number((await ask('select count(*) as count from usage_pending')).rows[0].count);
    return counts;
  });
}

async function measure(question, way, work, { times = runs, warmUp = 2, callers = 1 } = {}) {
  const taken = [];
  const started = performance.now();
  const first = performance.now();
  await work();
  const firstMs = performance.now() - first;
  for (let run = 1; run < warmUp; run++) await work();
  const begun = performance.now();
  await Promise.all(
    Array.from({ length: callers }, async () => {
      for (let run = 0; run < times; run++) {
        const started = performance.now();
        await work();
        taken.push(performance.now() - started);
      }
    }),
  );
  const seconds = (performance.now() - begun) / 1000;
  taken.sort((a, b) => a - b);
  const at = (share) => Math.round(taken[Math.min(taken.length - 1, Math.floor(share * taken.length))] * 10) / 10;
  const row = { question, way, callers, firstMs: Math.round(firstMs), p50Ms: at(0.5), p90Ms: at(0.9) };
  row.perSecond = Math.round((taken.length / seconds) * 10) / 10;
  rows.push(row);
  console.log(
    `${question} (${way}, ${callers}): first ${row.firstMs} p50 ${row.p50Ms} p90 ${row.p90Ms} ms [${Math.round((performance.now() - started) / 1000)} s]`,
  );
  return row;
}

/** Whole answers, without HTTP, cache and flush, beside the naive ones. */
async function measurePlans(url) {
  const db = await openDb(url, { poolSize: 10, applicationName: 'bench', parallelWorkers: 0 });
  const now = () => Date.parse(`${END}T12:00:00Z`);
  const queue = createFairQueue({ places: 4, waitingPerCaller: 100, waitMs: 60_000 });
  const read = createRead({
    db,
    freshness: { cover: async () => ({ complete: true, dataSource: 'cache', asOf: null }) },
    cache: createCache({ redis: undefined, changes: db.changes, queue, now }),
    documents: createDocuments(db.days),
    labels: createLabels(db.directory),
    fallback: (_, ask) => ask,
    queue,
    maxDays: 1100,
    maxRows: 1e9,
    now,
  });
  const page = { sortBy: 'cost', order: 'desc', limit: 50 };
  const breakdown =
    (by, range, filters = {}) =>
    () =>
      read.breakdown({ ...page, ...range, ...filters, by }, 'bench');
  const acme = { merchantIds: ['acme'] };
  const questions = [
    ['by user, acme, rolling year', breakdown('user', ROLLING, acme), naiveBy('user_id', ROLLING, 'acme'), true],
    ['by user, acme, 16 December to 15 November', breakdown('user', MIDDLE, acme), naiveBy('user_id', MIDDLE, 'acme')],
    ['by user, acme, 11 months', breakdown('user', ALIGNED, acme)],
    ['by user, acme, 30 days', breakdown('user', MONTH, acme)],
    ['by model, all, rolling year', breakdown('model', ROLLING), naiveBy('model', ROLLING), true],
    ['by user, all, rolling year', breakdown('user', ROLLING), naiveBy('user_id', ROLLING)],
    ['by user, all, to 31 October', breakdown('user', { ...ROLLING, endDate: '2026-10-31' })],
    ['by merchant, all, rolling year', breakdown('merchant', ROLLING)],
    ['by user and model, acme, rolling year', breakdown(['user', 'model'], ROLLING, acme)],
    ['by team, acme, rolling year', breakdown('team', ROLLING, acme)],
    ['summary, all, rolling year', () => read.summary(ROLLING, 'bench'), naiveSummary(ROLLING), true],
    ['summary, all, 30 days', () => read.summary(MONTH, 'bench'), naiveSummary(MONTH), true],
    ['summary, one of the others, rolling year', () => read.summary({ ...ROLLING, merchantIds: ['m-77'] }, 'bench')],
    ['by day, all, rolling year', () => read.timeseries({ ...ROLLING, interval: 'day', timeZone: 'UTC' }, 'bench')],
  ];
  const naive = new pg.Pool({ connectionString: url, max: 1 });
  for (const [name, ask, plain, together] of questions) {
    const ours = await measure(name, 'plan', ask);
    if (together) await measure(name, 'plan', ask, { callers: 16, times: Math.min(runs, 4) });
    if (!plain) continue;
    const row = await measure(name, 'naive', () => plain(naive), { times: 3, warmUp: 1 });
    row.naiveByOurs = Math.round((row.p50Ms / ours.p50Ms) * 10) / 10;
  }
  await naive.end();
  await db.close();
}

/** Makes the snapshots of the last 90 days, and prints the size of their indexes. */
async function measureDocuments(url) {
  const db = await openDb(url, { poolSize: 4, applicationName: 'bench', parallelWorkers: 0 });
  const cover = async () => ({ complete: true, dataSource: 'cache', asOf: null });
  const sealed = createDays({ db, freshness: { cover }, maxDays: 1100, now: Date.now, onProgress() {} });
  const started = performance.now();
  const { rebuilt } = await sealed.rebuild(
    { startDate: back(90), endDate: END, onlyStale: false },
    { merchantId: null },
  );
  const seconds = Math.round((performance.now() - started) / 100) / 10;
  await db.close();
  return withClient(url, async (client) => {
    const { rows: sizes } = await client.query(`
      select pg_indexes_size('daily_usage_cache') as indexes, pg_table_size('daily_usage_cache') as documents`);
    const mb = (bytes) => Math.round(Number(bytes) / 1e6);
    return { rebuilt, seconds, documentsMb: mb(sizes[0].documents), indexesMb: mb(sizes[0].indexes) };
  });
}

/**
 * Answers from the cache over HTTP: by one caller and by 16, just started and warm. The calls come over kept sockets,
 * since a client costs more than the service. Beside them a bare Node server that sends the same bytes: the limit.
 */
async function measureHttp(servers) {
  const ways = [];
  await withAnalytics(servers, async ({ url, port, pid, ingest }) => {
    const client = createAnalyticsClient({ url, key: KEY });
    const started = performance.now();
    const answer = await client.analytics.breakdown.query({ ...ROLLING, by: 'user' });
    report.firstAfterStartMs = Math.round(performance.now() - started);
    // CPU, so that other load on the machine counts less.
    const cached = async (question, { path, body }, connections, most, program = { port, pid }) => {
      const before = [cpuSecondsOf(program.pid), cpuSecondsOf(ingest.pid), await flushes(ingest.url)];
      const { calls, seconds, latencies } = await load({
        port: program.port,
        path,
        bodyOf: () => body,
        connections,
        seconds: 30,
        warmUpMs: 0,
        most,
      });
      const ms = (pid, start) => Math.round(((cpuSecondsOf(pid) - start) / calls) * 1e5) / 100;
      ways.push({
        question,
        callers: connections,
        perSecond: Math.round(calls / seconds),
        ...latencies,
        cpuMsPerCall: ms(program.pid, before[0]),
        ingestCpuMsPerCall: ms(ingest.pid, before[1]),
        flushesPerCall: Math.round((((await flushes(ingest.url)) - before[2]) * 100) / calls) / 100,
      });
    };
    await cached('by user, the first 2,000 calls', BY_USER, 16, 2_000);
    await cached('by user', BY_USER, 16, 10_000);
    await cached('summary of 30 days', SUMMARY, 16, 5_000);
    await cached('by user', BY_USER, 1, 1_000);
    const settings = { ANSWER: JSON.stringify({ result: { data: answer } }) };
    await withProgram('bench/bare-http.mjs', servers, settings, (bare) =>
      cached('the same bytes from a bare Node server', BY_USER, 16, 10_000, bare),
    );
  });
  return ways;
}

/** usage-ingest and analytics-api as processes of their own. */
async function withAnalytics(servers, work) {
  return withService('usage-ingest', servers, {}, async (ingest) =>
    withService('analytics-api', servers, { ...SETTINGS, USAGE_INGEST_URL: ingest.url }, async (analytics) =>
      work({ ...analytics, ingest }),
    ),
  );
}

/** Returns the number of flush requests that usage-ingest has answered. */
async function flushes(url) {
  const response = await fetch(`${url}/metrics`, { headers: { authorization: `Bearer ${KEY}` } });
  const [, count = 0] =
    /^tally_http_requests_total\{route="flush.drain",status="200"\} (\d+)$/m.exec(await response.text()) ?? [];
  return Number(count);
}

/**
 * Queries that are not cached: alone, while exports are made, and beside readers that take a few KiB a second of them.
 */
async function measureBesideReaders(servers) {
  const ways = [];
  await withAnalytics(servers, async ({ port, pid }) => {
    const until = Array.from({ length: 60 }, (_, index) => back(index + 2));
    let asked = 0;
    const bodyOf = () =>
      JSON.stringify({
        startDate: back(DAYS),
        endDate: until[asked++ % until.length],
        by: 'user',
        merchantIds: ['acme'],
        limit: 1 + Math.floor(asked / until.length),
      });
    const measured = async (question) => {
      const { calls, seconds, latencies } = await load({
        port,
        path: BY_USER.path,
        bodyOf,
        connections: 4,
        seconds: 60,
        warmUpMs: 0,
        most: 120,
      });
      ways.push({ question, perSecond: Math.round((10 * calls) / seconds) / 10, ...latencies });
    };
    await measured('alone, just started');
    await measured('alone');
    // One after the other: exports being written have few slots.
    const readers = [];
    while (readers.length < SLOW_READERS) readers.push(await slowReader(port));
    await measured('while exports are made');
    await idle(pid);
    await measured(`beside ${SLOW_READERS} slow readers of exports`);
    ways.at(-1).stillReading = readers.filter((reader) => reader.isReading()).length;
    for (const reader of readers) reader.close();
    await measured('alone again');
  });
  return ways;
}

/** Resolves when a process has used little CPU for a second: what it was making is made. */
async function idle(pid) {
  for (;;) {
    const before = cpuSecondsOf(pid);
    await new Promise((resolve) => setTimeout(resolve, 1_000));
    if (cpuSecondsOf(pid) - before < 0.1) return;
  }
}

/** Resolves when the first bytes of an export have arrived; then reads some 16 KiB per second. */
async function slowReader(port) {
  const socket = connect({ port, host: '127.0.0.1', highWaterMark: 4096 });
  socket.write(
    `GET /export/usage.csv?merchantIds=acme&startDate=${back(Math.min(DAYS, Math.ceil(1_000_000 / users)))}&endDate=${END} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer ${KEY}\r\n\r\n`,
  );
  const [first] = await once(socket, 'data');
  if (!String(first).startsWith('HTTP/1.1 200')) throw new Error(String(first));
  socket.pause();
  socket.on('data', () => socket.pause());
  const taking = setInterval(() => socket.resume(), 250);
  return {
    isReading: () => !socket.destroyed && !socket.readableEnded,
    close() {
      clearInterval(taking);
      socket.destroy();
    },
  };
}

/** About a million rows in each format. */
async function measureExports(servers) {
  const files = [];
  await withService('usage-ingest', servers, {}, async (ingest) => {
    for (const format of ['csv', 'ndjson', 'xlsx'])
      await withService('analytics-api', servers, { ...SETTINGS, USAGE_INGEST_URL: ingest.url }, async ({ url, pid }) =>
        files.push(await exported(url, pid, format)),
      );
  });
  return files;
}

/** Read by curl at full speed; returns the peak memory of the service (VmHWM). */
async function exported(url, pid, format) {
  const count = Math.min(DAYS, Math.ceil(1_000_000 / users));
  const address = `${url}/export/usage.${format}?merchantIds=acme&startDate=${back(count)}&endDate=${END}`;
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
