import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { dayOf } from '@tally/contracts';
import { createAnalyticsClient, createIngestClient } from '@tally/contracts/client';
import { migrate } from '@tally/db';
import { type FreshStore, freshDatabase, freshRedis, serverUrls, startServiceProcess, until } from '@tally/testkit';
import { Redis } from 'ioredis';
import pg from 'pg';
import { expect, test } from 'vitest';

const KEY = 'the-admin-key-of-restores';
const jobAt = (name: string) => fileURLToPath(new URL(`../../apps/usage-ingest/dist/jobs/${name}.js`, import.meta.url));
const SENT_BEFORE = 300;

test('a backup taken under load restores with drift 0; events acknowledged after it are listed, and count again', {
  timeout: 600_000,
}, async () => {
  // A backup of Citus is one of each node: not tried here.
  const fresh = freshDatabase(migrate, { onOneNode: true });
  const [database, redis, restoredRedis] = await Promise.all([fresh, freshRedis(), freshRedis()]);
  const env = { DATABASE_URL: database.url, REDIS_URL: redis.url, TALLY_ADMIN_KEY: KEY, FLUSH_INTERVAL_MS: '50' };
  const ingest = await startServiceProcess('usage-ingest', { ...env, LOG_LEVEL: 'fatal' });
  const client = createIngestClient({ url: ingest.url, key: KEY });
  let [sent, acknowledged, isLoading] = [0, 0, true];
  const load = async () => {
    while (isLoading) {
      const entries = Array.from({ length: 5 }, () => ({
        id: String(sent++),
        merchantId: `m${sent % 3}`,
        metrics: { queries: '1' },
      }));
      acknowledged += (await client.usage.record.mutate({ entries })).accepted;
    }
  };
  const loading = load();
  await until(`${SENT_BEFORE} acknowledged events`, () => acknowledged >= SENT_BEFORE, 10);

  // Redis first, then Postgres: events flushed in between are in Postgres.
  await copyRedis(redis.url, restoredRedis.url);
  const restored = await copyDatabase(database.url);
  const before = acknowledged;
  await until('50 more acknowledged events', () => acknowledged >= before + 50, 10);
  isLoading = false;
  await loading;
  const late = { id: 'late', merchantId: 'only-later', metrics: { queries: '7' } };
  await client.usage.record.mutate({ entries: [late] });
  await client.flush.drain.mutate({});
  const today = dayOf(Date.now());
  expect(await requestsOf('only-later', today, { ...env, USAGE_INGEST_URL: ingest.url })).toBe('1');
  await client.meters.create.mutate({ key: 'made_later', aggregation: 'COUNT' });
  expect(await client.reconcile.check.query({ startDate: today, endDate: today })).toMatchObject({ balanced: true });
  await ingest.stop();

  const of = (stores: Record<string, string>) => ({ ...env, LOG_LEVEL: 'fatal', ...stores });
  // Redis survived, Postgres is restored: Redis still knows what Postgres lacks.
  const newer = await run('verify-restore', of({ DATABASE_URL: restored.url }));
  expect(newer.code).toBe(1);
  expect(newer.output).toMatch(/^only-later \S+ queries: Postgres has 0; Redis counted 7/m);
  expect(newer.output).toMatch(/^ +event late: acknowledged, but not in the journal$/m);
  expect(newer.output).toMatch(/\d+ differ$/m);

  // Both are from the same backup: the service repairs the totals, counts pending events, and everything agrees.
  const again = await startServiceProcess(
    'usage-ingest',
    of({ DATABASE_URL: restored.url, REDIS_URL: restoredRedis.url }),
  );
  const restoredClient = createIngestClient({ url: again.url, key: KEY });
  await restoredClient.flush.drain.mutate({});
  await restoredClient.reconcile.repair.mutate({});
  await again.stop();
  const same = await run('verify-restore', of({ DATABASE_URL: restored.url, REDIS_URL: restoredRedis.url }));
  expect([same.code, same.output]).toEqual([0, expect.stringContaining('every stored form agrees')]);

  // Redis survived: after the job, what the restored Postgres lacks counts when it is sent again.
  const kept = of({ DATABASE_URL: restored.url });
  expect(await run('after-restore', kept)).toMatchObject({ code: 0 });
  const last = await startServiceProcess('usage-ingest', kept);
  const lastClient = createIngestClient({ url: last.url, key: KEY });
  const other = { ...late, id: 'other', count: '2' };
  expect(await lastClient.usage.record.mutate({ entries: [other] })).toMatchObject({ accepted: 1 });
  await lastClient.flush.drain.mutate({});
  // As many changes as when the answer of before the restore was cached.
  expect(await requestsOf('only-later', today, { ...kept, USAGE_INGEST_URL: last.url })).toBe('2');
  expect(await lastClient.usage.record.mutate({ entries: [late, late] })).toMatchObject({ accepted: 1, duplicates: 1 });
  await lastClient.flush.drain.mutate({});
  await lastClient.reconcile.repair.mutate({});
  expect(await requestsOf('only-later', today, { ...kept, USAGE_INGEST_URL: last.url })).toBe('3');
  await last.stop();
  const end = await run('verify-restore', kept);
  expect([end.code, end.output]).toEqual([0, expect.stringContaining('every stored form agrees')]);

  await Promise.all([database, restored, redis, restoredRedis].map(({ drop }) => drop()));
});

/** Returns the requests of a merchant's day as a new analytics-api answers. */
async function requestsOf(merchantId: string, date: string, env: Record<string, string>): Promise<string> {
  const analytics = await startServiceProcess('analytics-api', env);
  const client = createAnalyticsClient({ url: analytics.url, key: KEY });
  const { totals } = await client.analytics.breakdown.query({
    ...{ startDate: date, endDate: date, by: 'user', merchantIds: [merchantId] },
  });
  await analytics.stop();
  return totals.requests;
}

async function run(job: string, env: Record<string, string>): Promise<{ code: number | null; output: string }> {
  const child = spawn(process.execPath, [jobAt(job)], {
    env: { PATH: process.env.PATH, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (chunk: Buffer) => {
      output += chunk.toString();
    });
  const [code] = await once(child, 'close');
  return { code, output };
}

/** Copies all keys at one moment, like a snapshot of Redis. */
async function copyRedis(from: string, to: string): Promise<void> {
  const [source, target] = [new Redis(from), new Redis(to)];
  try {
    const keys = await source.keys('*');
    const dumped = await source
      .multi(
        keys.flatMap((key) => [
          ['dumpBuffer', key],
          ['pttl', key],
        ]),
      )
      .exec();
    for (const [index, key] of keys.entries()) {
      const [dump, ttl] = [dumped![index * 2]![1] as Buffer | null, dumped![index * 2 + 1]![1] as number];
      if (dump) await target.restore(key, Math.max(ttl, 0), dump);
    }
  } finally {
    source.disconnect();
    target.disconnect();
  }
}

/** Copies a database while a service uses it; its connections are cut for as long as the copy takes. */
async function copyDatabase(url: string): Promise<FreshStore> {
  const name = new URL(url).pathname.slice(1);
  const copy = new URL(url);
  copy.pathname = `/${name}_restored`;
  const elsewhere = serverUrls().databaseUrl;
  const client = new pg.Client({ connectionString: elsewhere });
  await client.connect();
  const run = (text: string) => client.query(text);
  await run(`alter database ${name} allow_connections false`);
  await client.query('select pg_terminate_backend(pid) from pg_stat_activity where datname = $1', [name]);
  await run(`create database ${name}_restored template ${name}`);
  await run(`alter database ${name} allow_connections true`);
  await run(`alter database ${name}_restored allow_connections true`);
  await client.end();
  const drop = async () => {
    const last = new pg.Client({ connectionString: elsewhere });
    await last.connect();
    await last.query(`drop database ${name}_restored with (force)`);
    await last.end();
  };
  return { url: copy.toString(), drop };
}
