import { setTimeout as wait } from 'node:timers/promises';
import { addDays, dayOf } from '@tally/contracts';
import { createAnalyticsClient, createEngineClient } from '@tally/contracts/client';
import { type Db, migrate, openDb } from '@tally/db';
import { type FreshStore, freshDatabase, type ServiceProcess, startServiceProcess, until } from '@tally/testkit';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type RedisCluster, startRedisCluster } from '../chaos/redis-cluster.mjs';

const KEY = 'the-admin-key-of-the-failover';
const MERCHANTS = Array.from({ length: 12 }, (_, index) => `failover-${index}`);

let cluster: RedisCluster;
let database: FreshStore;
let db: Db;
let client: pg.Client;
let engines: ServiceProcess[];
let analytics: ServiceProcess;

beforeAll(async () => {
  cluster = await startRedisCluster({ masters: 3, replicasEach: 1 });
  database = await freshDatabase(migrate);
  db = await openDb(database.url);
  client = new pg.Client({ connectionString: database.url });
  await client.connect();
  const env = {
    DATABASE_URL: database.url,
    REDIS_URL: cluster.url,
    TALLY_ADMIN_KEY: KEY,
    LOG_LEVEL: 'fatal',
    REALTIME_SAVE_MS: '100',
    REALTIME_WATCH_MS: '10',
    ADMIN_ANALYTICS_RATE_LIMIT: '100000',
    ADMIN_EXPORT_RATE_LIMIT: '2',
  };
  [analytics, ...engines] = (await Promise.all(
    ['analytics-api', 'metrics-engine', 'metrics-engine'].map((app) => startServiceProcess(app, env)),
  )) as [ServiceProcess, ServiceProcess, ServiceProcess];
  for (const { url } of engines) {
    await until(
      'Redis in /readyz',
      async () => ((await (await fetch(`${url}/readyz`)).json()) as { redis: boolean }).redis,
    );
  }
});

afterAll(async () => {
  await Promise.all([...(engines ?? []), ...(analytics ? [analytics] : [])].map((service) => service.kill()));
  await client?.end();
  await db?.close();
  await database?.drop();
  await cluster?.remove();
});

const engineOf = ({ url }: ServiceProcess) => createEngineClient({ url, key: KEY });

test('the first points of many merchants are taken all at once, whichever master has them', async () => {
  const calls = MERCHANTS.map((merchantId) => ({ merchantId, name: 'first' }));
  const response = await fetch(`${engines[0]!.url}/trpc/${calls.map(() => 'realtime.increment').join(',')}?batch=1`, {
    method: 'POST',
    headers: { authorization: `Bearer ${KEY}`, 'content-type': 'application/json' },
    body: JSON.stringify({ ...calls }),
  });
  expect(await response.json()).toEqual(calls.map(() => ({ result: { data: { ok: true } } })));
});

test('while replicas take over, points are refused or counted once, answers are never stale, and jobs and watchers go on', async () => {
  const jobsNode = cluster.nodeOf('{bull}');
  const ownersNode = cluster.nodeOf('metrics:realtime:owners');
  const killed = [jobsNode, ownersNode];
  const alive = cluster.masters().find((node) => !killed.includes(node))!;
  const jobs = engineOf(engines[0]!).jobs;
  const realtime = engineOf(engines[1]!).realtime;
  const watched = MERCHANTS.find((merchantId) => cluster.nodeOf(`{${merchantId}}`) === jobsNode)!;
  // A metric without a point cannot be watched.
  await realtime.increment.mutate({ merchantId: watched, name: 'load' });
  const [heard, failures] = [[] as string[], [] as string[]];
  const watching = realtime.watch.subscribe(
    { merchantId: watched, name: 'load' },
    { onData: ({ value }) => heard.push(value!), onError: ({ message }) => failures.push(message) },
  );

  const acknowledged = MERCHANTS.map((merchantId) => (merchantId === watched ? 1 : 0));
  const refusals = new Map<string, number>();
  let loading = true;
  const load = MERCHANTS.map(async (merchantId, index) => {
    while (loading) {
      const response = await fetch(`${engines[index % 2]!.url}/trpc/realtime.increment`, {
        method: 'POST',
        headers: { authorization: `Bearer ${KEY}`, 'content-type': 'application/json' },
        body: JSON.stringify({ merchantId, name: 'load' }),
      });
      if (response.ok) acknowledged[index]!++;
      const { error } = (await response.json()) as { error?: { data: { code: string } } };
      if (!error) continue;
      const refusal = `${response.status} ${error.data.code} ${response.headers.get('retry-after')}`;
      refusals.set(refusal, (refusals.get(refusal) ?? 0) + 1);
      await wait(20);
    }
  });

  const day = addDays(dayOf(Date.now()), -20);
  const { analytics: questions } = createAnalyticsClient({ url: analytics.url, key: KEY });
  let rounds = 0;
  const asking = (async () => {
    while (loading) {
      await append(day, ++rounds);
      const range = { startDate: day, endDate: day, merchantIds: ['asked'] };
      for (const _ of ['computed', 'kept']) {
        const { totals } = await questions.breakdown.query({ ...range, by: 'model' });
        expect(totals.requests).toBe(String(rounds));
      }
    }
  })();

  for (const node of killed) {
    await cluster.kill(node);
    const [before, asked] = [[...acknowledged], rounds];
    await until('three more rounds of queries', async () => {
      await Promise.race([wait(5), asking]);
      return rounds >= asked + 3;
    });
    const goesOn = () => acknowledged.every((count, index) => count > before[index]! + 1);
    await until('two more acknowledged points of each merchant', goesOn, 10);
    await cluster.untilOk(alive);
  }
  loading = false;
  await Promise.all([...load, asking]);
  expect([...refusals.keys()]).toEqual(['503 UNAVAILABLE 1']);
  for (const [index, merchantId] of MERCHANTS.entries()) {
    const counted = Number((await realtime.get.query({ merchantId, name: 'load' })).value);
    // One is in flight at a time. It may have died with its master, unanswered although it reached the replica, or the
    // reverse.
    expect(Math.abs(counted - acknowledged[index]!), merchantId).toBeLessThanOrEqual(killed.length);
  }

  await jobs.run.mutate({ name: 'daily' });
  const done = async () =>
    (await jobs.log.query()).rows.filter((row) => row.kind === 'daily' && row.status === 'COMPLETED');
  await until('the daily run to complete', async () => (await done()).length > 0);
  // An engine that found no Redis at its first look makes the schedules at its next one.
  await until('all schedules', async () => (await jobs.schedules.query()).rows.length === 8);
  const { value } = await realtime.get.query({ merchantId: watched, name: 'load' });
  const hears = () => {
    expect(failures).toEqual([]);
    return heard.at(-1) === value;
  };
  await until(`the watcher to hear ${value}`, hears, 5);
  watching.unsubscribe();
  const exported = () =>
    fetch(`${analytics.url}/export/usage.csv?startDate=${day}&endDate=${day}`, {
      headers: { authorization: `Bearer ${KEY}` },
    });
  await until('a refused export', async () => (await exported()).status === 429, 5);
});

test('realtime metrics come back after one master, and after every master, has lost its data', async () => {
  const [one, two] = engines.map((engine) => engineOf(engine).realtime) as [Realtime, Realtime];
  const copies = async () =>
    (
      await client.query(
        `select count(*)::int as copies from realtime_metrics_cache
         where merchant_id = any($1) and (value ->> 'i' = $2 or value ->> 'count' = $3)`,
        [MERCHANTS, '5', '3'],
      )
    ).rows[0].copies;
  for (const merchantId of MERCHANTS) {
    await one.increment.mutate({ merchantId, name: 'kept', by: '5' });
    await two.observe.mutate({ merchantId, name: 'sizes', values: ['1', '2', '3'], windowSeconds: 3_600 });
  }
  await until('copies of all metrics', async () => (await copies()) >= 2 * MERCHANTS.length);

  const lose = [[cluster.nodeOf('metrics:realtime:owners')], cluster.masters()];
  for (const [round, masters] of lose.entries()) {
    for (const master of masters) cluster.flush(master);
    await Promise.all(
      MERCHANTS.flatMap((merchantId) =>
        [one, two].map((realtime) => realtime.increment.mutate({ merchantId, name: 'kept', by: '0.5' })),
      ),
    );
    for (const merchantId of MERCHANTS) {
      const { value } = await two.get.query({ merchantId, name: 'kept' });
      // A loss may cost what came after the last copy.
      expect(Number(value), merchantId).toBeGreaterThanOrEqual(6);
      expect(Number(value), merchantId).toBeLessThanOrEqual(6 + round);
      expect(await one.get.query({ merchantId, name: 'sizes' })).toMatchObject({ count: '3', max: '3' });
    }
  }
  const { reconcile } = engineOf(engines[0]!).realtime;
  expect(await reconcile.mutate()).toMatchObject({ merchants: MERCHANTS.length, restored: 0 });
});

type Realtime = ReturnType<typeof createEngineClient>['realtime'];

/** One more call of the merchant `asked`, as the flush would have counted it. */
const append = (date: string, id: number) =>
  db.journal.append({
    source: 'direct',
    lines: [
      {
        ...{ merchant_id: 'asked', date, id: String(id), time: Date.parse(`${date}T12:00:00Z`), model: 'm' },
        ...{ requests: '1', origin: 'direct' },
      },
    ],
  });
