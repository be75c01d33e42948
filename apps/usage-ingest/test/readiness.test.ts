import { execFileSync } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathsOf } from '@tally/contracts';
import { createIngestClient, type IngestClient } from '@tally/contracts/client';
import { migrate, undoMigrations } from '@tally/db';
import { createLog, createReleasers } from '@tally/service';
import { OPEN_PATHS, pathsWithoutKey, servedAndStated } from '@tally/testkit';
import { Redis } from 'ioredis';
import pg from 'pg';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { type Servers, startServers } from '../../../infra/local/servers.mjs';
import { readEnv } from '../src/env.ts';
import { createIngestService, type IngestService } from '../src/service.ts';

const KEY = 'the-admin-key-of-the-tests';
const releasers = createReleasers();
const clock = { ahead: 0 };
let home: string;
let servers: Servers;
let service: IngestService;
let client: IngestClient;
let redis: Redis;
let postgres: pg.Client;

const envWith = (settings: Record<string, string>) =>
  readEnv({
    DATABASE_URL: servers.databaseUrl,
    REDIS_URL: servers.redisUrl,
    TALLY_ADMIN_KEY: KEY,
    FLUSH_INTERVAL_MS: '20',
    REDIS_MEMORY_HIGH_MARK: '0.5',
    ...settings,
  });

beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), 'tally-readiness-'));
  servers = await startServers({ home, durable: false });
  await migrate(servers.databaseUrl);
  redis = new Redis(servers.redisUrl);
  postgres = new pg.Client({ connectionString: servers.superuserUrl });
  await postgres.connect();
  const env = envWith({});
  const log = createLog('test', 'silent');
  service = await createIngestService(env, { log, releasers, now: () => Date.now() + clock.ahead });
  client = createIngestClient({
    url: 'http://ingest',
    key: KEY,
    fetch: async (input, init) => service.app.request(input as string, init as RequestInit),
  });
});
afterAll(async () => {
  await releasers.releaseAll();
  redis.disconnect();
  await postgres.end();
  await servers.remove();
  await rm(home, { recursive: true, force: true });
});

async function readyz() {
  const response = await service.app.request('/readyz');
  const { ok, degraded, notes } = (await response.json()) as { ok: boolean; degraded: boolean; notes: string[] };
  expect(response.status).toBe(ok ? 200 : 503);
  return { ok, degraded, notes };
}

const SOON = { timeout: 60_000 };
const FINE = { ok: true, degraded: false, notes: [] };
const degradedBy = (...notes: string[]) => ({ ok: true, degraded: true, notes });

test('a service on a schema older than its release is not ready until the migrations ran', async () => {
  const own = createReleasers();
  await undoMigrations(servers.databaseUrl, (undone) => undone === 0);
  const early = await createIngestService(envWith({}), { log: createLog('early', 'silent'), releasers: own });
  const answer = async () => (await early.app.request('/readyz')).json();
  expect(await answer()).toMatchObject({
    ok: false,
    notes: ['The schema of Postgres is older than this release: run its migrations.'],
  });
  await migrate(servers.databaseUrl);
  expect(await answer()).toMatchObject({ ok: true, notes: [] });
  await own.releaseAll();
});

test('with both stores there it is not degraded', async () => {
  expect(await readyz()).toEqual(FINE);
});

test('a flusher answers health and metrics only, and is ready while both stores are', async () => {
  const own = createReleasers();
  const flusherOn = async (settings: Record<string, string>) =>
    (
      await createIngestService(envWith(settings), {
        log: createLog('test', 'silent'),
        releasers: own,
        isFlusher: true,
      })
    ).app;
  const flusher = await flusherOn({});
  expect(flusher.routes.map(({ path }) => path)).toEqual(['/livez', '/readyz', '/metrics']);
  expect((await flusher.request('/readyz')).status).toBe(200);
  expect(await (await flusher.request('/metrics')).text()).toContain('tally_flush_lag_seconds');
  const headers = { authorization: `Bearer ${KEY}`, 'content-type': 'application/json' };
  const record = await flusher.request('/trpc/usage.record', { method: 'POST', headers, body: '{"entries":[]}' });
  expect(record.status).toBe(404);
  const withoutRedis = await flusherOn({ REDIS_URL: 'redis://127.0.0.1:1' });
  expect((await withoutRedis.request('/livez')).status).toBe(200);
  expect((await withoutRedis.request('/readyz')).status).toBe(503);
  await own.releaseAll();
});

test('a full disk of Postgres is noticed by the flush, and usage is taken all the same', async () => {
  await postgres.query(`
    create function pg_temp_full() returns trigger language plpgsql as $$
    begin raise exception using errcode = '53100', message = 'could not extend file /secret/place'; end $$;
    create trigger full_disk before insert on usage_flushes for each statement execute function pg_temp_full()`);
  const entries = [{ id: 'a', merchantId: 'acme', metrics: { queries: '1' } }];
  expect(await client.usage.record.mutate({ entries })).toMatchObject({ accepted: 1 });
  await vi.waitFor(async () => expect(await readyz()).toEqual(degradedBy('Postgres takes no writes.')), SOON);
  await postgres.query('drop trigger full_disk on usage_flushes');
  await vi.waitFor(async () => expect(await client.flush.status.query({})).toMatchObject({ pendingKeys: 0 }), SOON);
  // An observation counts for half a minute.
  clock.ahead = 31_000;
  expect((await readyz()).notes).not.toContain('Postgres takes no writes.');
  clock.ahead = 0;
  expect(await readyz()).toEqual(FINE);
});

test('a Redis that was told to evict while it runs is noticed, and not enough to be ready', async () => {
  const note = 'Redis evicts keys: set maxmemory-policy noeviction.';
  await redis.config('SET', 'maxmemory-policy', 'allkeys-lru');
  expect(await readyz()).toEqual(degradedBy(note));
  const postgresProcesses = [servers.postgres.pid!, ...childrenOf(servers.postgres.pid!)];
  for (const pid of postgresProcesses) process.kill(pid, 'SIGSTOP');
  try {
    await vi.waitFor(async () => {
      expect(await readyz()).toEqual({ ok: false, degraded: true, notes: ['Postgres is unavailable.', note] });
    }, SOON);
    const entries = [{ id: 'nowhere', merchantId: 'acme', metrics: { queries: '1' } }];
    await expect(client.usage.record.mutate({ entries })).rejects.toMatchObject({ data: { code: 'UNAVAILABLE' } });
  } finally {
    for (const pid of postgresProcesses.reverse()) process.kill(pid, 'SIGCONT');
  }
  await redis.config('SET', 'maxmemory-policy', 'noeviction');
  // A store is used again within a moment after it answers.
  await vi.waitFor(async () => expect(await readyz()).toEqual(FINE), SOON);
});

test('a Redis above its memory mark is noticed, and bypassed until the mark clears itself', async () => {
  let events = 0;
  /** Returns true if an event was written directly to Postgres. */
  const isDirect = async () => {
    const id = `full-${events++}`;
    const entry = { id, merchantId: 'full', time: new Date().toISOString(), metrics: { queries: '1' } };
    expect(await client.usage.record.mutate({ entries: [entry] })).toMatchObject({ accepted: 1 });
    await client.flush.drain.mutate({});
    const { rows } = await postgres.query('select origin from usage_events where id = $1', [id]);
    return rows[0]?.origin === 'direct';
  };
  const used = Number(/used_memory:(\d+)/.exec(await redis.info('memory'))![1]);
  await redis.config('SET', 'maxmemory', String(Math.ceil(used * 1.5)));
  expect(await readyz()).toEqual(degradedBy('Redis is above its memory mark.'));
  await vi.waitFor(async () => expect(await isDirect()).toBe(true), SOON);
  await redis.config('SET', 'maxmemory', '2gb');
  expect(await readyz()).toEqual(FINE);
  await vi.waitFor(async () => expect(await isDirect()).toBe(false), SOON);
  const { metrics } = await client.usage.current.query({ merchantId: 'full' });
  expect(metrics).toMatchObject({ queries: String(events) });
});

test('it is not ready while Redis is not used and Postgres is read-only', async () => {
  await redis.config('SET', 'maxmemory-policy', 'allkeys-lru');
  await postgres.query('alter system set default_transaction_read_only = on');
  await postgres.query('select pg_reload_conf()');
  await vi.waitFor(async () => expect(await readyz()).toMatchObject({ ok: false, degraded: true }), SOON);
  const entries = [{ id: 'nowhere', merchantId: 'acme', metrics: { queries: '1' } }];
  await expect(client.usage.record.mutate({ entries })).rejects.toMatchObject({ data: { code: 'UNAVAILABLE' } });
  await postgres.query('set default_transaction_read_only = off');
  await postgres.query('alter system reset default_transaction_read_only');
  await postgres.query('select pg_reload_conf()');
  await redis.config('SET', 'maxmemory-policy', 'noeviction');
  await vi.waitFor(async () => expect(await readyz()).toMatchObject({ ok: true }), SOON);
  clock.ahead = 31_000;
  await vi.waitFor(async () => expect((await readyz()).notes).not.toContain('Postgres takes no writes.'), SOON);
  clock.ahead = 0;
  await vi.waitFor(async () => expect(await readyz()).toEqual(FINE), SOON);
});

test('a read-only Postgres is noticed, also by connections that were there before', async () => {
  await postgres.query('alter system set default_transaction_read_only = on');
  await postgres.query('select pg_reload_conf()');
  await vi.waitFor(async () => expect(await readyz()).toEqual(degradedBy('Postgres is read-only.')), SOON);
  await postgres.query('alter system reset default_transaction_read_only');
  await postgres.query('select pg_reload_conf()');
  await vi.waitFor(async () => expect(await readyz()).toEqual(FINE), SOON);
});

test('a clock that differs from those of the stores is named', async () => {
  clock.ahead = -2 * 3_600_000;
  const { degraded, notes } = await readyz();
  expect(degraded).toBe(true);
  for (const store of ['Postgres', 'Redis'])
    expect(notes).toContainEqual(
      expect.stringMatching(`^The clock of this process is 7(199|200|201) s behind that of ${store}\\.$`),
    );
  clock.ahead = 0;
});

test('stores that hang are unavailable, however often it is asked, and come back', async () => {
  clock.ahead = 60_000;
  const stopped = [servers.redis.pid!, servers.postgres.pid!, ...childrenOf(servers.postgres.pid!)];
  for (const pid of stopped) process.kill(pid, 'SIGSTOP');
  try {
    const asked = await Promise.all(Array.from({ length: 20 }, () => readyz()));
    for (const each of [...asked, await readyz()])
      expect(each).toEqual({ ok: false, degraded: true, notes: ['Postgres is unavailable.', 'Redis is unavailable.'] });
  } finally {
    for (const pid of stopped.reverse()) process.kill(pid, 'SIGCONT');
  }
  clock.ahead = 0;
  await vi.waitFor(async () => expect((await readyz()).ok).toBe(true), SOON);
});

const childrenOf = (pid: number) =>
  execFileSync('pgrep', ['-P', String(pid)], { encoding: 'utf8' })
    .trim()
    .split('\n')
    .map(Number);

test('every path asks for a key, but those that are open to all', async () => {
  const { app } = service;
  expect(await pathsWithoutKey(app)).toEqual(OPEN_PATHS);
  // The roles × paths test takes its paths from the contract.
  const { served, stated } = servedAndStated(app, pathsOf('usage-ingest'));
  expect(served).toEqual(stated);
  // The fast path of tRPC bypasses anything registered for all paths.
  const registered = app.hono.routes.map(({ method, path }) => `${method} ${path}`);
  expect(registered).toEqual(['ALL /trpc/*', ...app.routes.map(({ method, path }) => `${method} ${path}`)]);
});
