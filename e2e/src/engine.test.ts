import { once } from 'node:events';
import { createServer } from 'node:http';
import { addDays, dayOf } from '@tally/contracts';
import { createAnalyticsClient, createEngineClient, createIngestClient } from '@tally/contracts/client';
import { migrate } from '@tally/db';
import {
  type FreshStore,
  freshDatabase,
  freshRedis,
  type ServiceProcess,
  startServiceProcess,
  until,
} from '@tally/testkit';
import pg from 'pg';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { startRedisCluster } from '../chaos/redis-cluster.mjs';

const KEY = 'the-admin-key-of-the-engine';
const RANGE = { startDate: '2026-01-01', endDate: '2026-03-31' };
const DAYS = 90;
/** A day in the middle, and the number of days before it. */
const HELD = '2026-02-15';
const DAYS_BEFORE = 45;
/** `rollupPeriod` in `packages/db/src/locks.ts`. */
const LOCK_OF_PERIODS = 7424;

let database: FreshStore;
let redis: FreshStore;
let client: pg.Client;
let services: ServiceProcess[];

beforeEach(async () => {
  database = await freshDatabase(migrate);
  redis = await freshRedis();
  client = new pg.Client({ connectionString: database.url });
  await client.connect();
  services = [];
});

afterEach(async () => {
  await Promise.all(services.map((service) => service.kill()));
  await client.end();
  await database.drop();
  await redis.drop();
});

const start = async (app: string, more: Record<string, string> = {}) => {
  const service = await startServiceProcess(app, {
    DATABASE_URL: database.url,
    REDIS_URL: redis.url,
    TALLY_ADMIN_KEY: KEY,
    LOG_LEVEL: 'fatal',
    ...more,
  });
  services.push(service);
  return service;
};
const engineOf = ({ url }: ServiceProcess) => createEngineClient({ url, key: KEY });

/** Usage of many users, as the flush would have counted it. */
async function seed(): Promise<void> {
  await client.query(
    `insert into usage_daily
     select 'acme', day::date, 'user-' || n, '', 'model-' || n % 5, 'p', n, 0, n * 3, n, n * 1000
     from generate_series($1::date, $2::date, interval '1 day') as day, generate_series(1, 300) as n`,
    [RANGE.startDate, RANGE.endDate],
  );
  await client.query(
    `insert into merchant_usage (merchant_id, date, metric_type, metric_value)
     select merchant_id, date, 'requests', sum(requests) from usage_daily group by 1, 2`,
  );
}

/** Cuts a backfill off while it waits for the lock of `HELD`; `free` releases that lock. */
async function backfillCutOffBy(cut: (engine: ServiceProcess, free: () => Promise<unknown>) => Promise<unknown>) {
  await seed();
  const lock = [`daily ${HELD}`, LOCK_OF_PERIODS];
  await client.query('select pg_advisory_lock(hashtextextended($1, $2))', lock);
  const free = () => client.query('select pg_advisory_unlock(hashtextextended($1, $2))', lock);
  const engine = await start('metrics-engine');
  const answer = engineOf(engine)
    .rollups.daily.backfill.mutate(RANGE)
    .then(
      () => 'answered',
      (error) => error.data?.code ?? 'cut off',
    );
  const run = async () => (await client.query('select * from metrics_aggregation_jobs_log')).rows[0];
  await until('the run to reach the period that is held', async () => (await run())?.periods_done === DAYS_BEFORE);
  await cut(engine, free);
  const cutOff = await run();
  await engine.start();
  await until('the end of the run', async () => (await run()).status !== 'RUNNING');
  const { rows: wrong } = await client.query(
    `with usage as (select date, user_id, sum(requests) as value from usage_daily group by 1, 2),
     rollups as (
       select period_start as date, entity_id as user_id, value from daily_metrics
       where entity_type = 'user' and metric_type = 'requests')
     select * from usage full join rollups using (date, user_id)
     where usage.value is distinct from rollups.value`,
  );
  expect(wrong).toEqual([]);
  return { answer: await answer, cutOff, ended: await run() };
}

test('an engine killed in the middle of a backfill goes on where it was when it is started again, and ends right', async () => {
  const { answer, cutOff, ended } = await backfillCutOffBy(async (engine, free) => {
    await engine.kill();
    await free();
  });
  expect(answer).toBe('cut off');
  expect(cutOff).toMatchObject({ status: 'RUNNING', periods_total: DAYS, periods_done: DAYS_BEFORE });
  expect(ended).toMatchObject({ status: 'COMPLETED', periods_done: DAYS, attempts: 2 });
});

test('an engine that is asked to stop in the middle of a backfill ends between two periods, and the next goes on', async () => {
  let code: number | null = -1;
  const { answer, cutOff, ended } = await backfillCutOffBy(async (engine, free) => {
    const stopped = engine.stop();
    await free();
    code = await stopped;
  });
  expect({ code, answer }).toEqual({ code: 0, answer: 'UNAVAILABLE' });
  expect(cutOff).toMatchObject({ status: 'RUNNING' });
  expect(cutOff.periods_done).toBeLessThan(DAYS);
  expect(ended).toMatchObject({ status: 'COMPLETED', periods_done: DAYS, attempts: 2 });
});

test('the jobs of the night call the other services: books are compared, days sealed, the cache warmed', async () => {
  const ingest = await start('usage-ingest');
  const analytics = await start('analytics-api', { USAGE_INGEST_URL: ingest.url });
  const engine = await start('metrics-engine', { USAGE_INGEST_URL: ingest.url, ANALYTICS_API_URL: analytics.url });
  const yesterday = addDays(dayOf(Date.now()), -1);
  await createIngestClient({ url: ingest.url, key: KEY }).usage.record.mutate({
    entries: [
      { id: '1', merchantId: 'acme', time: `${yesterday}T12:00:00Z`, model: 'm', metrics: { prompt_tokens: '5' } },
    ],
  });
  const { jobs, rollups } = engineOf(engine);
  const done = async (name: 'reconcile' | 'daily' | 'afterDaily' | 'realtime') => {
    await jobs.run.mutate({ name });
    const line = new RegExp(`^tally_engine_job_runs_total\\{job="${name}",result="(\\w+)"\\} 1$`, 'm');
    const metrics = async () => (await fetch(`${engine.url}/metrics`)).text();
    return (await until(`job ${name} to end`, async () => line.exec(await metrics())))?.[1];
  };
  expect(await done('reconcile')).toBe('completed');
  expect(await done('daily')).toBe('completed');
  const { rows } = await rollups.daily.list.query({ startDate: yesterday, endDate: yesterday, entityType: 'model' });
  expect(rows.find((row) => row.metricType === 'prompt_tokens')).toMatchObject({ entityId: 'm', value: '5' });
  expect(await done('afterDaily')).toBe('completed');
  const reader = createAnalyticsClient({ url: analytics.url, key: KEY });
  const { rows: days } = await reader.days.status.query({ startDate: yesterday, endDate: yesterday });
  expect(days).toEqual([expect.objectContaining({ date: yesterday, status: 'complete', current: true })]);
  expect((await reader.cache.stats.query()).misses).toBeGreaterThan(0);
  expect(await done('realtime')).toBe('completed');
  expect((await jobs.failed.query()).rows).toEqual([]);
});

test('a watcher is told of changes through the client, survives a restart of the engine, and leaves nothing behind', async () => {
  const engine = await start('metrics-engine', { REALTIME_WATCH_MS: '10' });
  const { realtime } = engineOf(engine);
  const watchers = async () =>
    Number(/^tally_realtime_watchers (\d+)$/m.exec(await (await fetch(`${engine.url}/metrics`)).text())?.[1]);
  await realtime.increment.mutate({ name: 'calls' });
  const heard: string[] = [];
  const hears = (value: string) => until(`the watcher to hear ${value}`, () => heard.at(-1) === value, 5);
  const watching = realtime.watch.subscribe({ name: 'calls' }, { onData: ({ value }) => heard.push(value!) });
  await hears('1');
  await realtime.increment.mutate({ name: 'calls', by: '41' });
  await hears('42');
  expect(await watchers()).toBe(1);

  expect(await engine.stop()).toBe(0);
  await unavailableAt(engine.url);
  await engine.start();
  await realtime.increment.mutate({ name: 'calls', by: '-2' });
  await hears('40');
  watching.unsubscribe();
  await until('no watchers', async () => (await watchers()) === 0);

  const refused = await new Promise<unknown>((resolve) => {
    realtime.watch.subscribe({ name: 'nothing' }, { onError: (error) => resolve(error.data?.code) });
  });
  expect(refused).toBe('NOT_FOUND');
  await until('no watchers', async () => (await watchers()) === 0);
});

/** Answers one call at an address as a balancer does whose service is not there. */
async function unavailableAt(url: string): Promise<void> {
  const balancer = createServer((_, response) => response.writeHead(503, { connection: 'close' }).end());
  balancer.listen(Number(new URL(url).port), '127.0.0.1');
  await once(balancer, 'request');
  await new Promise((closed) => balancer.close(closed));
}

test('on a Redis Cluster of three masters a job put in runs once and realtime metrics count and reconcile', async () => {
  const cluster = await startRedisCluster({ masters: 3, replicasEach: 0 });
  try {
    const settings = { REDIS_URL: cluster.url, REALTIME_WATCH_MS: '10', REALTIME_SAVE_MS: '200' };
    const engines = [await start('metrics-engine', settings), await start('metrics-engine', settings)];
    for (const { url } of engines) {
      await until(
        'Redis in /readyz',
        async () => ((await (await fetch(`${url}/readyz`)).json()) as { redis: boolean }).redis,
      );
    }
    const clients = engines.map(engineOf);
    const merchants = Array.from({ length: 12 }, (_, index) => `cluster-${index}`);
    for (const merchantId of merchants) {
      const series = { merchantId, labels: { region: 'eu' } };
      await Promise.all(
        clients.map(({ realtime }) => realtime.increment.mutate({ ...series, name: 'calls', by: '1.5' })),
      );
      await clients[0]!.realtime.observe.mutate({ ...series, name: 'size', values: ['1', '2', '3'] });
    }
    for (const merchantId of merchants) {
      const read = (name: string) => clients[1]!.realtime.get.query({ merchantId, name, labels: { region: 'eu' } });
      expect(await read('calls')).toMatchObject({ value: '3' });
      expect(await read('size')).toMatchObject({ count: '3', max: '3' });
    }
    expect(await clients[0]!.realtime.reconcile.mutate()).toMatchObject({ merchants: 12, restored: 0 });
    const { id } = await clients[0]!.jobs.run.mutate({ name: 'daily' });
    expect(id).not.toBe('');
    const runs = async () =>
      (await clients[1]!.jobs.log.query()).rows.filter((row) => row.kind === 'daily' && row.status === 'COMPLETED');
    await until('the daily run to complete', async () => (await runs()).length > 0);
    expect(await runs()).toHaveLength(1);
    // An engine that found no Redis at its first look makes the schedules at its next one.
    await until('the schedules', async () =>
      (await clients[1]!.jobs.schedules.query()).rows.some((row) => row.name === 'afterDaily'),
    );
    expect(await Promise.all(engines.map((engine) => engine.stop()))).toEqual([0, 0]);
  } finally {
    await cluster.remove();
  }
});
