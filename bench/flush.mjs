import { writeFile } from 'node:fs/promises';
import { Redis } from 'ioredis';
import pg from 'pg';
import { createIngestClient } from '../packages/contracts/dist/client.js';
import { KEY, machine, withServers, withService } from './servers.mjs';

// Measures the flush from Redis into every table of Postgres, beside COPY of the same rows (the limit) and simple
// alternatives.
const ENTRIES = Number(process.env.BENCH_ENTRIES ?? 60_000);
const BATCH = 500;

const rows = [];
await withServers(async (servers) => {
  const sql = new pg.Client({ connectionString: servers.databaseUrl });
  await sql.connect();
  // Entries of one user each merge in no rollup except those without users: the most expensive ones.
  for (const [merchants, flushers, users] of [
    [1, 1, 100],
    [10, 1, 100],
    [10, 2, 100],
    [1, 1, ENTRIES],
  ]) {
    const name = `flush, ${merchants} merchant(s), ${flushers} flusher(s)${users === ENTRIES ? ', a user for each entry' : ''}`;
    const session = `f${merchants}-${flushers}-${users}`;
    rows.push({ what: name, 'per second': await flush(servers, { merchants, flushers, users, session }) });
  }
  // Only the superuser may read and write a file of the server.
  const superuser = new pg.Client({ connectionString: servers.superuserUrl });
  await superuser.connect();
  rows.push({ what: 'COPY into the journal table alone (the limit)', 'per second': await copy(superuser) });
  await superuser.end();
  rows.push({ what: 'an upsert per event, journal and daily sums', 'per second': await upsertEach(sql) });
  rows.push({ what: 'SCAN + GET + upsert, a key at a time', 'per second': await scanAndUpsert(sql, servers.redisUrl) });
  await sql.end();
});
const plain = rows.find(({ what }) => what.startsWith('an upsert'))['per second'];
const limit = rows.find(({ what }) => what.startsWith('COPY'))['per second'];
console.log(machine());
console.table(
  rows.map((row) => ({
    ...row,
    '× upsert per event': (row['per second'] / plain).toFixed(1),
    'of the limit': (row['per second'] / limit).toFixed(2),
  })),
);
await writeFile(
  new URL('results/flush.json', import.meta.url),
  `${JSON.stringify({ machine: machine(), entries: ENTRIES, rows }, null, 2)}\n`,
);

function entriesOf(session, batch, { merchants, users }) {
  const time = new Date().toISOString();
  return Array.from({ length: BATCH }, (_, index) => ({
    id: `${session}-${batch}-${index}`,
    merchantId: `${session}-${index % merchants}`,
    time,
    userId: `user-${(batch * BATCH + index) % users}`,
    apiKey: `key-${index % 10}`,
    model: ['gpt-4o', 'gpt-4o-mini', 'claude-sonnet'][index % 3],
    provider: 'openai',
    metrics: { prompt_tokens: '374', completion_tokens: '44', cost: '0.0023' },
  }));
}

/** Fills the streams without a flush, then times the drain only. */
async function flush(servers, { merchants, flushers, users, session }) {
  const settings = { ENABLE_FLUSH: 'false' };
  return withService('usage-ingest', servers, settings, async (first) => {
    const client = createIngestClient({ url: first.url, key: KEY });
    for (let batch = 0; batch < ENTRIES / BATCH; batch++)
      await client.usage.record.mutate({ entries: entriesOf(session, batch, { merchants, users }) });
    const ids = Array.from({ length: merchants }, (_, index) => `${session}-${index}`);
    const drain = async (urls) => {
      const started = performance.now();
      const parts = urls.map((_, part) => ids.filter((__, index) => index % urls.length === part));
      await Promise.all(
        urls.map((url, part) => createIngestClient({ url, key: KEY }).flush.drain.mutate({ merchantIds: parts[part] })),
      );
      return Math.round(ENTRIES / ((performance.now() - started) / 1000));
    };
    if (flushers === 1) return drain([first.url]);
    return withService('usage-ingest', servers, settings, (second) => drain([first.url, second.url]));
  });
}

/** COPY of whole rows, from a file of the server, into a table like the journal. */
async function copy(sql) {
  await sql.query('create table bench_source (like usage_events including all)');
  await sql.query(
    `insert into bench_source select current_date, 'copy', 'c-' || n, now(), 'user-' || n % 100, 'key-' || n % 10, 'gpt-4o',
       'openai', false, 1, 1, 0, 374, 44, 2300000, null, null, 1 from generate_series(1, $1) as n`,
    [ENTRIES],
  );
  const { rows: found } = await sql.query(`select current_setting('data_directory') || '/bench.copy' as file`);
  const file = sql.escapeLiteral(found[0].file);
  await sql.query(`copy bench_source to ${file}`);
  await sql.query('create table bench_copy (like usage_events including all)');
  const started = performance.now();
  await sql.query(`copy bench_copy from ${file}`);
  return Math.round(ENTRIES / ((performance.now() - started) / 1000));
}

/** The simple job: SCAN the totals, and for each key a GET and an upsert. Keys per second. */
async function scanAndUpsert(sql, redisUrl) {
  const redis = new Redis(redisUrl);
  const keys = 2000;
  for (let n = 0; n < keys; n++) await redis.set(`plain:${n}`, '5');
  await sql.query('create table bench_totals (key text primary key, value bigint)');
  const started = performance.now();
  let cursor = '0';
  let done = 0;
  do {
    const [next, found] = await redis.scan(cursor, 'MATCH', 'plain:*', 'COUNT', 100);
    cursor = next;
    for (const key of found) {
      const value = await redis.get(key);
      await sql.query(
        'insert into bench_totals values ($1, $2) on conflict (key) do update set value = excluded.value',
        [key, value],
      );
      done++;
    }
  } while (cursor !== '0');
  await redis.quit();
  return Math.round(done / ((performance.now() - started) / 1000));
}

/** A common meter: for each event, a transaction that records it and adds to a row. */
async function upsertEach(sql) {
  await sql.query('create table bench_plain (id text primary key, at timestamptz)');
  await sql.query(
    'create table bench_sums (merchant text, day date, usr text, model text, n bigint, primary key (merchant, day, usr, model))',
  );
  const count = Math.min(ENTRIES, 3000);
  const started = performance.now();
  for (let n = 0; n < count; n++) {
    await sql.query('begin');
    await sql.query('insert into bench_plain values ($1, now()) on conflict do nothing', [`p-${n}`]);
    await sql.query(
      `insert into bench_sums values ('plain', current_date, $1, $2, 1)
       on conflict (merchant, day, usr, model) do update set n = bench_sums.n + 1`,
      [`user-${n % 100}`, 'gpt-4o'],
    );
    await sql.query('commit');
  }
  return Math.round(count / ((performance.now() - started) / 1000));
}
