import { writeFile } from 'node:fs/promises';
import { setTimeout as wait } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { Redis } from 'ioredis';
import pg from 'pg';
import { createAnalyticsClient, createIngestClient } from '../packages/contracts/dist/client.js';
import { memoryOf } from './cpu.mjs';
import { load } from './load.mjs';
import { KEY, machine, withServers, withService } from './servers.mjs';
import { BATCH, bodiesOf } from './workloads.mjs';

// Runs at a steady rate for long: memory of Redis and of the services, latency and flush lag, a line per minute. Exits
// with 1 if memory grew, an acknowledged event is missing or counted twice, or stored forms differ.
const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '60' },
    rate: { type: 'string', default: '4000' },
    workload: { type: 'string', default: 'varied' },
  },
});
const [MINUTES, RATE] = [Number(values.minutes), Number(values.rate)];
if (!(MINUTES > 0 && RATE >= BATCH)) throw new Error(`Expected --minutes above 0 and --rate of at least ${BATCH}.`);
/** Small, so that the deduplication window is full after some events, and drops its oldest ids from then on. */
const [REDIS_MEMORY, WINDOW_EVENTS] = ['128mb', 350_000];
const SAMPLE_MS = 2_000;
/** Memory is flat if the median of the last quarter exceeds that of the second by at most this; from 10 minutes on. */
const ALLOWED = { share: 1.1, mib: 16, fromMinutes: 10 };

const today = () => new Date().toISOString().slice(0, 10);
const median = (numbers) => [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)];

const result = await withServers(async (servers) => {
  const redis = new Redis(servers.redisUrl);
  await redis.config('SET', 'maxmemory', REDIS_MEMORY);
  return withService('usage-ingest', servers, { TALLY_SERVICE_KEY: `${KEY}-service` }, (ingest) =>
    withService(
      'analytics-api',
      servers,
      { TALLY_SERVICE_KEY: `${KEY}-service`, USAGE_INGEST_URL: ingest.url },
      (analytics) => soak(servers, redis, ingest, analytics),
    ),
  ).finally(() => redis.disconnect());
});
console.log(machine());
console.table(result.memory);
for (const problem of result.problems) console.log(`PROBLEM: ${problem}`);
console.log(`${result.acknowledged} events in ${MINUTES} min: ${result.problems.length === 0 ? 'ok' : 'not ok'}`);
await writeFile(
  new URL('results/soak.json', import.meta.url),
  `${JSON.stringify({ machine: machine(), date: today(), minutes: MINUTES, rate: RATE, ...result }, null, 2)}\n`,
);
process.exit(result.problems.length === 0 ? 0 : 1);

async function soak(servers, redis, ingest, analytics) {
  const client = createIngestClient({ url: ingest.url, key: KEY });
  const asking = createAnalyticsClient({ url: analytics.url, key: KEY });
  const startDate = today();
  const end = performance.now() + MINUTES * 60_000;
  const samples = [];
  let unanswered = 0;
  const sample = async () => {
    const [info, { lagMs }] = await Promise.all([redis.info('memory'), client.flush.status.query({})]);
    await asking.analytics.breakdown.query({ startDate, endDate: today(), by: 'model' });
    samples.push({
      'usage-ingest': memoryOf(ingest.pid),
      'analytics-api': memoryOf(analytics.pid),
      redis: Number(/used_memory:(\d+)/.exec(info)[1]) / 2 ** 20,
      lagMs,
    });
  };
  const sampling = (async () => {
    while (performance.now() < end) {
      await sample().catch(() => {
        unanswered++;
      });
      await wait(SAMPLE_MS);
    }
  })();
  let calls = 0;
  const minutes = [];
  while (performance.now() < end) {
    const seconds = Math.min(60, (end - performance.now()) / 1000);
    const since = samples.length;
    // New bodies each minute, so that the events are of now.
    const run = await load({
      ...{ port: ingest.port, path: '/trpc/usage.record', bodyOf: bodiesOf(values.workload) },
      ...{ connections: 16, seconds, warmUpMs: 0, callsPerSecond: RATE / BATCH },
    });
    calls += run.calls;
    const of = (name) => Math.round(Math.max(0, ...samples.slice(since).map((sample) => sample[name])));
    const line = {
      ...{ minute: minutes.length + 1, 'events/s': Math.round((run.calls * BATCH) / run.seconds), ...run.latencies },
      ...{ 'lag ms': of('lagMs'), 'ingest MiB': of('usage-ingest'), 'analytics MiB': of('analytics-api') },
      'redis MiB': of('redis'),
    };
    minutes.push(line);
    console.log(JSON.stringify(line));
  }
  await sampling;
  await client.flush.drain.mutate({});
  const acknowledged = calls * BATCH;
  const problems = [];
  const memory = ['usage-ingest', 'analytics-api', 'redis'].map((of) => {
    const quarter = Math.floor(samples.length / 4);
    const mib = (from) => Math.round(median(samples.slice(from, from + quarter).map((sample) => sample[of])));
    const [early, late] = [mib(quarter), mib(samples.length - quarter)];
    // Redis is judged only if its window was full after a quarter of the time.
    const isJudged = MINUTES >= ALLOWED.fromMinutes && (of !== 'redis' || acknowledged / 4 >= WINDOW_EVENTS);
    if (isJudged && late > early * ALLOWED.share + ALLOWED.mib)
      problems.push(`memory of ${of} grew from ${early} to ${late} MiB`);
    return { of, 'second quarter MiB': early, 'last quarter MiB': late, judged: isJudged };
  });
  const counted = await countedIn(servers);
  if (counted !== acknowledged) problems.push(`${acknowledged} events were acknowledged, ${counted} are counted`);
  const { balanced, drift } = await client.reconcile.check.query({ startDate, endDate: today() });
  if (!balanced) problems.push(`${drift.length} numbers differ between stored forms`);
  return { acknowledged, unanswered, problems, memory, perMinute: minutes };
}

async function countedIn({ databaseUrl }) {
  const sql = new pg.Client({ connectionString: databaseUrl });
  await sql.connect();
  const { rows } = await sql.query(
    `select coalesce(sum(metric_value), 0)::text as requests from merchant_usage where metric_type = 'requests'`,
  );
  await sql.end();
  return Number(rows[0].requests);
}
