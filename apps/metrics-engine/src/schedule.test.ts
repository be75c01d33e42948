import { startOfDay } from '@tally/contracts';
import { createEngineClient, type EngineClient } from '@tally/contracts/client';
import { type Db, migrate, openDb } from '@tally/db';
import { createLog, createReleasers, type Releasers } from '@tally/service';
import { type FreshStore, freshDatabase, freshRedis } from '@tally/testkit';
import { Queue } from 'bullmq';
import { Redis } from 'ioredis';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { readEnv } from './env.ts';
import { PATTERNS, type Schedule } from './schedule.ts';
import { createEngineService } from './service.ts';

const ADMIN = 'admin-key-of-this-test';
const NOW = Date.parse('2026-03-20T08:00:00Z');

let store: FreshStore;
let redis: FreshStore;
let db: Db;
let client: pg.Client;
let connection: Redis;
let queue: Queue;
let releasers: Releasers;
let engine: EngineClient;
let schedule: Schedule;

beforeAll(async () => {
  store = await freshDatabase(migrate);
  redis = await freshRedis();
  db = await openDb(store.url);
  client = new pg.Client({ connectionString: store.url });
  await client.connect();
  connection = new Redis(redis.url, { maxRetriesPerRequest: null });
  queue = new Queue('metrics-engine', { connection, prefix: '{bull}' });
  releasers = createReleasers();
  const env = readEnv({
    DATABASE_URL: store.url,
    REDIS_URL: redis.url,
    TALLY_ADMIN_KEY: ADMIN,
    ENABLE_JOB_SCHEDULER: 'true',
    JOB_ATTEMPTS: '2',
    JOB_BACKOFF_MS: '10',
  });
  const options = { log: createLog('test', 'silent'), releasers, now: () => NOW };
  await createEngineService(env, options);
  const service = await createEngineService(env, options);
  schedule = service.schedule;
  engine = createEngineClient({
    url: 'http://engine',
    key: ADMIN,
    fetch: async (input, init) => service.app.request(input as string, init as RequestInit),
  });
});

afterAll(async () => {
  await queue.close();
  connection.disconnect();
  await releasers.releaseAll();
  await client.end();
  await db.close();
  await store.drop();
  await redis.drop();
});

test('two instances make each schedule once, at the documented UTC times', async () => {
  const { rows } = await engine.jobs.schedules.query();
  expect(Object.fromEntries(rows.map((row) => [row.name, row.pattern]))).toEqual(PATTERNS);
  const next = (name: string) => rows.find((row) => row.name === name)!.next!.slice(11, 16);
  expect([next('daily'), next('weekly'), next('monthly')]).toEqual(['02:00', '04:00', '05:00']);
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

test('a job that fails is tried again, kept, seen, and can be retried', async () => {
  await db.journal.append(['a'], {
    source: 'stream',
    lines: JSON.stringify([
      { merchant_id: 'a', date: '2026-03-18', id: '1', time: startOfDay('2026-03-18'), requests: '1' },
    ]),
    days: ['2026-03-18'],
  });
  await client.query(`alter table daily_metrics add constraint broken check (period_start <> '2026-03-18')`);
  const job = await queue.add('refresh', {}, { attempts: 2, backoff: { type: 'exponential', delay: 10 } });
  await expect.poll(() => job.isFailed(), { timeout: 20_000 }).toBe(true);
  const { rows } = await engine.jobs.failed.query();
  expect(rows).toMatchObject([{ id: job.id, name: 'refresh', attempts: 2 }]);
  expect((await client.query('select 1 from usage_touched_days')).rowCount).toBe(1);

  await client.query('alter table daily_metrics drop constraint broken');
  await engine.jobs.retry.mutate({ id: job.id! });
  await expect.poll(() => job.isCompleted(), { timeout: 20_000 }).toBe(true);
  expect((await engine.jobs.failed.query()).rows).toEqual([]);
  expect((await client.query('select 1 from usage_touched_days')).rowCount).toBe(0);
  await expect(engine.jobs.retry.mutate({ id: 'none' })).rejects.toMatchObject({ data: { code: 'NOT_FOUND' } });
});

test('cleanup removes the log of runs that ended long ago', async () => {
  await client.query(`update metrics_aggregation_jobs_log set finished_at = '2020-01-01'`);
  await schedule.perform('cleanup', NOW);
  expect((await engine.jobs.log.query()).rows).toEqual([]);
});
