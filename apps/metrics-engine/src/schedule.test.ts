import { DAY_MS, startOfDay } from '@tally/contracts';
import { createEngineClient, type EngineClient } from '@tally/contracts/client';
import type { Db } from '@tally/db';
import { createLog, createReleasers } from '@tally/service';
import { type FreshStore, freshRedis } from '@tally/testkit';
import { Queue } from 'bullmq';
import { Redis } from 'ioredis';
import type pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ADMIN, prepareStores, type Stores } from '../test/start.ts';
import { readEnv } from './env.ts';
import { PATTERNS, type Schedule } from './schedule.ts';
import { createEngineService } from './service.ts';

const NOW = Date.parse('2026-03-20T08:00:00Z');

let stores: Stores;
let store: FreshStore;
let db: Db;
let client: pg.Client;
let connection: Redis;
let queue: Queue;
let engine: EngineClient;
let schedule: Schedule;

beforeAll(async () => {
  stores = await prepareStores();
  ({ store, db, client } = stores);
  connection = new Redis(stores.redis.url, { maxRetriesPerRequest: null });
  queue = new Queue('metrics-engine', { connection, prefix: '{bull}' });
  const settings = {
    ENABLE_METRICS_SCHEDULER: 'true',
    JOB_ATTEMPTS: '2',
    JOB_BACKOFF_MS: '10',
    USAGE_INGEST_URL: 'http://127.0.0.1:1',
  };
  await stores.start(settings, () => NOW);
  ({ engine, schedule } = await stores.start(settings, () => NOW));
});

afterAll(async () => {
  await queue.close();
  connection.disconnect();
  await stores.close();
});

test('two instances make each schedule once, at the documented UTC times', async () => {
  const listed = async () => (await engine.jobs.schedules.query()).rows;
  await expect.poll(async () => (await listed()).length).toBe(Object.keys(PATTERNS).length);
  const rows = await listed();
  expect(Object.fromEntries(rows.map((row) => [row.name, row.pattern]))).toEqual(PATTERNS);
  const next = (name: string) => rows.find((row) => row.name === name)!.next!.slice(11, 16);
  expect(['reconcile', 'daily', 'afterDaily', 'weekly', 'monthly'].map(next)).toEqual([
    '02:00',
    '02:00',
    '03:00',
    '04:00',
    '05:00',
  ]);
  expect(await queue.getDelayedCount()).toBe(rows.length);
});

test.each([
  ['daily', '2026-03-16T02:00:00Z', '2026-03-15', '2026-03-15'],
  ['weekly', '2026-03-16T04:00:00Z', '2026-03-09', '2026-03-15'],
  ['monthly', '2026-03-02T05:00:00Z', '2026-02-01', '2026-02-28'],
] as const)('the %s job of %s computes %s to %s, however late it runs', async (kind, at, start, end) => {
  await schedule.perform(kind, Date.parse(at));
  const { rows } = await engine.jobs.log.query();
  expect(rows[0]).toMatchObject({ kind, status: 'COMPLETED', period: { startDate: start, endDate: end } });
});

test.each([
  ['daily', '2026-11-25T09:00:00Z', '2026-11-24', '2026-11-24'],
  ['weekly', '2026-11-25T09:00:00Z', '2026-11-16', '2026-11-22'],
  ['monthly', '2026-11-25T09:00:00Z', '2026-10-01', '2026-10-31'],
  ['monthly', '2026-03-31T23:59:59Z', '2026-02-01', '2026-02-28'],
  ['monthly', '2026-11-01T00:00:00Z', '2026-10-01', '2026-10-31'],
] as const)('the %s job, run by hand at %s, computes the last complete period', async (kind, at, start, end) => {
  await schedule.perform(kind, Date.parse(at));
  const { rows } = await engine.jobs.log.query();
  expect(rows[0]).toMatchObject({ kind, status: 'COMPLETED', period: { startDate: start, endDate: end } });
});

test('a job that fails is tried again, kept, seen, and can be retried', async () => {
  const date = '2026-03-18';
  await db.journal.append({
    source: 'direct',
    lines: [{ merchant_id: 'a', date, id: '1', time: startOfDay(date), requests: '1', origin: 'direct' }],
  });
  await client.query(`alter table daily_metrics add constraint broken check (period_start <> '2026-03-18')`);
  const job = await queue.add('refresh', {}, { attempts: 2, backoff: { type: 'exponential', delay: 10 } });
  await expect.poll(() => job.isFailed()).toBe(true);
  const { rows } = await engine.jobs.failed.query();
  expect(rows).toMatchObject([{ id: job.id, name: 'refresh', attempts: 2 }]);
  expect((await client.query(`select 1 from metrics_stale_periods where grain = 'daily'`)).rowCount).toBeGreaterThan(0);

  await client.query('alter table daily_metrics drop constraint broken');
  await engine.jobs.retry.mutate({ id: job.id! });
  await expect.poll(() => job.isCompleted()).toBe(true);
  expect((await engine.jobs.failed.query()).rows).toEqual([]);
  expect((await client.query(`select 1 from metrics_stale_periods where grain = 'daily'`)).rowCount).toBe(0);
  // The queue has keys of its own beside those of its jobs.
  for (const id of ['none', 'events', 'meta', job.id!])
    await expect(engine.jobs.retry.mutate({ id })).rejects.toMatchObject({ data: { code: 'NOT_FOUND' } });
});

test('pages failed jobs, also while one of them is retried', async () => {
  // No such job: it fails at once.
  const jobs = await Promise.all([1, 2, 3, 4, 5].map(() => queue.add('unheard-of', {})));
  for (const job of jobs) await expect.poll(() => job.isFailed()).toBe(true);
  const all = (await engine.jobs.failed.query()).rows.map(({ id }) => id);
  expect(new Set(all)).toEqual(new Set(jobs.map(({ id }) => id)));
  const first = await engine.jobs.failed.query({ limit: 2 });
  await (await queue.getJob(all[1]!))!.remove();
  const second = await engine.jobs.failed.query({ limit: 2, cursor: first.nextCursor! });
  const third = await engine.jobs.failed.query({ limit: 2, cursor: second.nextCursor! });
  expect([first, second, third].map(({ rows }) => rows.map(({ id }) => id))).toEqual([
    all.slice(0, 2),
    all.slice(2, 4),
    all.slice(4),
  ]);
  expect(third.nextCursor).toBeNull();
  for (const cursor of ['1', 'W10'])
    await expect(engine.jobs.failed.query({ cursor })).rejects.toMatchObject({ data: { code: 'INVALID_CURSOR' } });
  for (const job of jobs) await job.remove();
});

test('two instances do the job of each time once', async () => {
  const own = await freshRedis();
  const stop = createReleasers();
  const one = readEnv({ DATABASE_URL: store.url, REDIS_URL: own.url, TALLY_ADMIN_KEY: ADMIN });
  await client.query('truncate metrics_aggregation_jobs_log');
  const options = {
    log: createLog('test', 'silent'),
    releasers: stop,
    now: () => NOW,
    patterns: { daily: '* * * * * *' },
  };
  await Promise.all([createEngineService(one, options), createEngineService(one, options)]);
  const seen = new Redis(own.url, { maxRetriesPerRequest: null });
  const times = new Queue('metrics-engine', { connection: seen, prefix: '{bull}' });
  await expect.poll(() => times.getCompletedCount()).toBeGreaterThanOrEqual(4);
  await stop.releaseAll();
  const done = await times.getCompleted();
  const moments = done.map((job) => job.opts.prevMillis);
  expect(new Set(moments).size).toBe(done.length);
  const { rows } = await client.query(
    `select count(*)::int as runs from metrics_aggregation_jobs_log where kind = 'daily'`,
  );
  expect(rows[0].runs).toBe(done.length);
  expect(await times.getFailedCount()).toBe(0);
  await times.close();
  seen.disconnect();
  await own.drop();
});

test('a job that fell due while no engine ran is done by the next one that starts', async () => {
  const own = await freshRedis();
  const seen = new Redis(own.url, { maxRetriesPerRequest: null });
  const times = new Queue('metrics-engine', { connection: seen, prefix: '{bull}' });
  await times.upsertJobScheduler('cleanup', { pattern: PATTERNS.cleanup, tz: 'UTC' }, { name: 'cleanup' });
  const [job] = await times.getDelayed();
  await job!.changeDelay(0);
  const stop = createReleasers();
  const env = readEnv({ DATABASE_URL: store.url, REDIS_URL: own.url, TALLY_ADMIN_KEY: ADMIN });
  await createEngineService(env, { log: createLog('test', 'silent'), releasers: stop, now: () => NOW });
  await expect.poll(() => job!.isCompleted()).toBe(true);
  await stop.releaseAll();
  await times.close();
  seen.disconnect();
  await own.drop();
});

test('a job whose service is unavailable fails, is kept and counted, and the daily rollup does not wait for it', async () => {
  const job = await queue.add('reconcile', {}, { attempts: 1 });
  await expect.poll(() => job.isFailed()).toBe(true);
  const { id } = await engine.jobs.run.mutate({ name: 'daily' });
  await expect.poll(async () => (await queue.getJob(id))?.isCompleted()).toBe(true);
  expect((await engine.jobs.failed.query()).rows.map((row) => row.name)).toEqual(['reconcile']);
  await job.remove();
});

test('with Redis away the schedules are said to be unavailable at once, and the rest of the engine answers', async () => {
  const stop = createReleasers();
  const env = readEnv({ DATABASE_URL: store.url, REDIS_URL: 'redis://127.0.0.1:1', TALLY_ADMIN_KEY: ADMIN });
  const { app } = await createEngineService(env, { log: createLog('test', 'silent'), releasers: stop, now: () => NOW });
  const alone = createEngineClient({
    url: 'http://engine',
    key: ADMIN,
    fetch: async (input, init) => app.request(input as string, init as RequestInit),
  });
  await expect(alone.jobs.failed.query()).rejects.toMatchObject({ data: { code: 'UNAVAILABLE' } });
  await expect(alone.realtime.increment.mutate({ name: 'a' })).rejects.toMatchObject({ data: { code: 'UNAVAILABLE' } });
  expect(await alone.rollups.daily.run.mutate({ date: '2026-03-01' })).toMatchObject({ status: 'COMPLETED' });
  await stop.releaseAll();
});

test('cleanup removes the log of runs that ended long ago', async () => {
  await client.query(`update metrics_aggregation_jobs_log set finished_at = '2020-01-01'`);
  await schedule.perform('cleanup', NOW);
  expect((await engine.jobs.log.query()).rows).toEqual([]);
});

test('cleanup of an engine whose clock is ahead removes no run that ended lately', async () => {
  const ahead = await stores.start({}, () => Date.now() + 400 * DAY_MS);
  await engine.rollups.daily.run.mutate({ date: '2026-03-01' });
  await client.query('update metrics_aggregation_jobs_log set finished_at = now()');
  await ahead.schedule.perform('cleanup', Date.now() + 400 * DAY_MS);
  expect((await engine.jobs.log.query()).rows).not.toEqual([]);
});

test('cleanup removes old steps of custom metrics and values of removed metrics, and keeps those in use', async () => {
  const metric = {
    metricType: 'SUM',
    dataSource: 'usage',
    calculationFormula: 'SUM(cost)',
    visibility: 'PRIVATE',
  } as const;
  const [kept, removed] = [
    await engine.custom.create.mutate({ name: 'kept', ...metric }),
    await engine.custom.create.mutate({ name: 'removed', ...metric }),
  ];
  const range = { startDate: '2026-03-01', endDate: '2026-03-02' };
  for (const { id } of [kept, removed]) await engine.custom.calculate.mutate({ id, ...range });
  await client.query(`update custom_metric_definitions set removed_at = '2020-01-01' where id = $1`, [removed.id]);
  await client.query(`update custom_metric_audit set at = '2020-01-01' where definition_id = $1`, [removed.id]);
  await schedule.perform('cleanup', NOW);
  for (const table of ['custom_metric_values', 'custom_metric_audit']) {
    const { rows } = await client.query(`select distinct definition_id as id from ${table}`);
    expect(rows).toEqual([{ id: kept.id }]);
  }
});
