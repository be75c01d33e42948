import { readFile, writeFile } from 'node:fs/promises';
import { setTimeout as wait } from 'node:timers/promises';
import { Redis } from 'ioredis';
import pg from 'pg';
import { createIngestClient } from '../packages/contracts/dist/client.js';
import { KEY, machine, withServers, withService } from './servers.mjs';
import { BATCH, bodiesOf } from './workloads.mjs';

// Computes the resources that a rate and a number of merchants need. Measured here: bytes on disk and in Redis per
// event, row and merchant, from real events in real stores. From results/write-path.json: CPU per event. The rest is
// arithmetic, with the assumptions below.
/** Requests of each workload. Spread: enough for each of its merchants. */
const BODIES = { varied: 100, interleaved: 100, rich: 100, spread: 400 };
const WORKLOADS = Object.keys(BODIES);
const RATES = [1_000, 10_000, 100_000, 1_000_000];
/** The share of a core that may be busy. */
const BUSY = 0.7;
const POSTGRES_CORES = 16;
const REDIS_GIB = 64;
const DISK_TIB = 16;
const RETENTION_DAYS = 35;
/** Bytes of one id in the deduplication window (docs/operations.md). */
const ID_BYTES = 140;
const WINDOW_HOURS = 1;
/** Days that Redis keeps running totals. */
const TOTALS_DAYS = 7;
const MERCHANTS = 100_000;
const [GIB, TIB, DAY_SECONDS] = [2 ** 30, 2 ** 40, 86_400];

const sizes = [];
for (const workload of WORKLOADS) sizes.push(await withServers((servers) => measure(workload, servers)));
const {
  rows: costs,
  machine: costMachine,
  date,
} = JSON.parse(await readFile(new URL('results/write-path.json', import.meta.url), 'utf8'));
const needs = WORKLOADS.flatMap((workload) => {
  const { cpuMicrosPerEvent: cpu } = costs.find((row) => row.workload === workload).tally;
  const size = sizes.find((row) => row.workload === workload);
  return RATES.map((rate) => needsOf({ workload, rate, cpu, size }));
});
const { redisBytesPerMerchantDay, rollupBytesPerMerchantDay } = sizes.find(({ workload }) => workload === 'spread');
const merchants = {
  merchants: MERCHANTS,
  'running totals in Redis, GiB': gib(MERCHANTS * TOTALS_DAYS * redisBytesPerMerchantDay),
  'all but the journal in Postgres, GiB/day': gib(MERCHANTS * rollupBytesPerMerchantDay),
};
console.log(machine());
console.table(merchants);
console.table(sizes.map(({ tables: _, ...row }) => row));
console.table(needs);
await writeFile(
  new URL('results/scale.json', import.meta.url),
  `${JSON.stringify({ machine: machine(), date: new Date().toISOString().slice(0, 10), costs: { machine: costMachine, date }, sizes, merchants, needs }, null, 2)}\n`,
);

/** Counts events and measures their size. */
async function measure(workload, servers) {
  return withService('usage-ingest', servers, {}, async ({ url }) => {
    const emptyBytes = await databaseBytes(servers);
    const bodyOf = bodiesOf(workload);
    for (let sent = 0; sent < BODIES[workload]; sent++) {
      const answer = await fetch(`${url}/trpc/usage.record`, {
        method: 'POST',
        headers: { authorization: `Bearer ${KEY}`, 'content-type': 'application/json' },
        body: bodyOf(),
      });
      if (!answer.ok) throw new Error(await answer.text());
    }
    await createIngestClient({ url, key: KEY }).flush.drain.mutate({});
    const sql = new pg.Client({ connectionString: servers.superuserUrl });
    await sql.connect();
    const waiting = 'select count(*)::int as waiting from usage_flushes where derived_at is null';
    while ((await sql.query(waiting)).rows[0].waiting > 0) await wait(100);
    const events = await bytesOf(sql, 'usage_events');
    const daily = await bytesOf(sql, 'usage_daily');
    const quarterHours = await bytesOf(sql, 'usage_quarter_hours');
    const counted = 'select count(distinct merchant_id)::int as merchants from merchant_usage';
    const { merchants } = (await sql.query(counted)).rows[0];
    await sql.end();
    const perMerchant = (bytes) => Math.round(bytes / merchants);
    const rollups = (await databaseBytes(servers)) - emptyBytes - events.bytes;
    return {
      workload,
      events: BODIES[workload] * BATCH,
      merchants,
      journalBytesPerEvent: Math.round(events.bytes / events.rows),
      dailyRows: daily.rows,
      dailyBytesPerRow: Math.round(daily.bytes / daily.rows),
      quarterHourRows: quarterHours.rows,
      quarterHourBytesPerRow: Math.round(quarterHours.bytes / quarterHours.rows),
      // Of few merchants, other growth of the stores would be larger than theirs.
      ...(workload === 'spread' && {
        rollupBytesPerMerchantDay: perMerchant(rollups),
        redisBytesPerMerchantDay: perMerchant(await totalsBytes(servers)),
      }),
    };
  });
}

async function databaseBytes({ superuserUrl }) {
  const sql = new pg.Client({ connectionString: superuserUrl });
  await sql.connect();
  const { rows } = await sql.query('select pg_database_size(current_database())::float8 as bytes');
  await sql.end();
  return rows[0].bytes;
}

/** Bytes of the running totals in Redis: what it has more than without them. They are removed. */
async function totalsBytes({ redisUrl }) {
  const redis = new Redis(redisUrl);
  const used = async () => Number(/used_memory:(\d+)/.exec(await redis.info('memory'))[1]);
  const keys = [];
  for await (const found of redis.scanStream({ match: 'usage:*', count: 10_000 })) keys.push(...found);
  const before = await used();
  for (let start = 0; start < keys.length; start += 10_000) await redis.del(keys.slice(start, start + 10_000));
  const bytes = before - (await used());
  await redis.quit();
  return bytes;
}

/** Bytes of a table with its indexes and partitions, as new, and its rows. */
async function bytesOf(sql, table) {
  const { rows } = await sql.query(
    `select pg_total_relation_size($1::regclass)::float8 +
              coalesce((select sum(pg_total_relation_size(relid)) from pg_partition_tree($1) where isleaf), 0)::float8 as bytes,
            (select count(*)::int from ${table}) as rows`,
    [table],
  );
  return rows[0];
}

function gib(bytes) {
  return Math.round((bytes * 100) / GIB) / 100;
}

function needsOf({ workload, rate, cpu, size }) {
  const cores = (micros) => Math.ceil((rate * micros) / 1e6 / BUSY);
  const idBytes = rate * 3_600 * WINDOW_HOURS * ID_BYTES;
  const journalBytes = rate * DAY_SECONDS * size.journalBytesPerEvent;
  const parts = {
    'ingest and flush, cores': cores(cpu.service),
    'Redis masters': Math.max(cores(cpu.redis), Math.ceil(idBytes / (REDIS_GIB * GIB * 0.25))),
    [`Postgres nodes of ${POSTGRES_CORES} cores`]: Math.ceil(cores(cpu.postgres) / POSTGRES_CORES),
    [`nodes of ${DISK_TIB} TiB for the journal`]: Math.ceil((journalBytes * RETENTION_DAYS) / (DISK_TIB * TIB)),
  };
  return { workload, 'events/s': rate, ...parts, 'journal GiB/day': Math.round(journalBytes / GIB) };
}
