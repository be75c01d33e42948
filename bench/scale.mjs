import { readFile, writeFile } from 'node:fs/promises';
import { setTimeout as wait } from 'node:timers/promises';
import pg from 'pg';
import { createIngestClient } from '../packages/contracts/dist/client.js';
import { KEY, machine, withServers, withService } from './servers.mjs';
import { BATCH, bodiesOf } from './workloads.mjs';

// Computes the resources that a rate needs. Measured here: bytes on disk and in Redis per event and per row, from real
// events in real stores. From results/write-path.json: CPU per event. The rest is arithmetic, with the assumptions
// below.
const WORKLOADS = ['varied', 'interleaved', 'rich'];
const BODIES = 100;
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
console.log(machine());
console.table(sizes.map(({ tables: _, ...row }) => row));
console.table(needs);
await writeFile(
  new URL('results/scale.json', import.meta.url),
  `${JSON.stringify({ machine: machine(), date: new Date().toISOString().slice(0, 10), costs: { machine: costMachine, date }, sizes, needs }, null, 2)}\n`,
);

/** Counts events and measures their size. */
async function measure(workload, servers) {
  return withService('usage-ingest', servers, {}, async ({ url }) => {
    const bodyOf = bodiesOf(workload);
    for (let sent = 0; sent < BODIES; sent++) {
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
    await sql.end();
    return {
      workload,
      events: BODIES * BATCH,
      journalBytesPerEvent: Math.round(events.bytes / events.rows),
      dailyRows: daily.rows,
      dailyBytesPerRow: Math.round(daily.bytes / daily.rows),
      quarterHourRows: quarterHours.rows,
      quarterHourBytesPerRow: Math.round(quarterHours.bytes / quarterHours.rows),
    };
  });
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
