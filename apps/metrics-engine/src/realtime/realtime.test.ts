import { formatCost, parseSignedQuantity } from '@tally/contracts';
import { createEngineClient, type EngineClient } from '@tally/contracts/client';
import { type Db, migrate, openDb } from '@tally/db';
import {
  type App,
  createLog,
  createRedis,
  createReleasers,
  type RedisClient,
  type Releasers,
  redisReady,
} from '@tally/service';
import { type FreshStore, freshDatabase, freshRedis } from '@tally/testkit';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { readEnv } from '../env.ts';
import { createEngineService } from '../service.ts';
import { createBackup } from './backup.ts';
import { createRealtime } from './realtime.ts';
import { RELATIVE_ERROR } from './sketch.ts';

const ADMIN = 'admin-key-of-this-test';

let store: FreshStore;
let stored: FreshStore;
let db: Db;
let redis: RedisClient;
let releasers: Releasers;
let app: App;
let engine: EngineClient;
let as: (key: string) => EngineClient;
let now = Date.parse('2026-03-20T08:00:00Z');
let names = 0;

beforeAll(async () => {
  store = await freshDatabase(migrate);
  stored = await freshRedis();
  db = await openDb(store.url);
  redis = createRedis(stored.url);
  await redisReady(redis);
  releasers = createReleasers();
  const env = readEnv({
    DATABASE_URL: store.url,
    REDIS_URL: stored.url,
    TALLY_ADMIN_KEY: ADMIN,
    REALTIME_MAX_SERIES: '3',
    REALTIME_WATCH_MS: '10',
  });
  const service = await createEngineService(env, { log: createLog('test', 'silent'), releasers, now: () => now });
  app = service.app;
  as = (key) =>
    createEngineClient({
      url: 'http://engine',
      key,
      fetch: async (input, init) => app.request(input as string, init as RequestInit),
    });
  engine = as(ADMIN);
  await redisReady(service.redis);
});

afterAll(async () => {
  await releasers.releaseAll();
  redis.disconnect();
  await db.close();
  await store.drop();
  await stored.drop();
});

const fresh = () => `metric_${names++}`;
const realtime = () =>
  createRealtime({ redis, limits: { names: 1000, seriesPerName: 10 }, ttlSeconds: 60, watchMs: 10, now: () => now });

const amount = fc
  .tuple(fc.bigInt({ min: -(10n ** 24n) + 1n, max: 10n ** 24n - 1n }), fc.constantFrom(1n, 1_000_000_000n))
  .map(([units, step]) => formatCost((units / step) * step));

test('a counter is the exact sum of what was added, in any order', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(amount, { minLength: 1, maxLength: 20 }), async (amounts) => {
      const name = fresh();
      const counters = realtime();
      await Promise.all(amounts.map((by) => counters.increment({ merchantId: 'a', name }, by)));
      const sum = amounts.reduce((total, by) => total + parseSignedQuantity('cost', by)!, 0n);
      expect((await counters.get({ merchantId: 'a', name })).value).toBe(formatCost(sum));
    }),
    { numRuns: 30 },
  );
});

test('quantiles of a histogram are within the stated error, count, min, max and mean are exact', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(
        fc.oneof(fc.integer({ min: 1, max: 999_999_999 }), fc.constant(0), fc.integer({ min: -5000, max: -1 })),
        {
          minLength: 1,
          maxLength: 60,
        },
      ),
      async (thousandths) => {
        const name = fresh();
        const histograms = realtime();
        const values = thousandths.map((each) => formatCost(BigInt(each) * 1_000_000n));
        for (const value of values) await histograms.observe({ merchantId: 'a', name }, value);
        const sorted = thousandths.map((each) => each / 1000).sort((a, b) => a - b);
        const answer = await histograms.get({ merchantId: 'a', name });
        expect([answer.count, Number(answer.min), Number(answer.max)]).toEqual([
          String(values.length),
          sorted[0],
          sorted.at(-1),
        ]);
        const sum = thousandths.reduce((total, each) => total + BigInt(each) * 1_000_000n, 0n);
        expect(answer.mean).toBe(formatCost(sum / BigInt(values.length)));
        for (const [quantile, estimate] of [
          [500n, answer.p50],
          [900n, answer.p90],
          [950n, answer.p95],
          [990n, answer.p99],
        ] as const) {
          const exact = sorted[Number((quantile * BigInt(sorted.length - 1)) / 1000n)]!;
          expect(Math.abs(Number(estimate) - exact)).toBeLessThanOrEqual(
            Math.abs(exact) * RELATIVE_ERROR * 1.001 + 1e-9,
          );
        }
      },
    ),
    { numRuns: 20 },
  );
});

test('a rate counts the marks of its window, and forgets those before', async () => {
  const name = fresh();
  for (let second = 0; second < 30; second++) {
    now += 1_000;
    await engine.realtime.mark.mutate({ name, windowSeconds: 30 });
  }
  expect(await engine.realtime.get.query({ name })).toMatchObject({ count: '30', perSecond: '1', windowSeconds: 30 });
  expect(await engine.realtime.get.query({ name, windowSeconds: 10 })).toMatchObject({ count: '10', perSecond: '1' });
  now += 20_000;
  expect(await engine.realtime.get.query({ name })).toMatchObject({ count: '10', perSecond: '0.333333' });
  now += 20_000;
  expect(await engine.realtime.get.query({ name })).toMatchObject({ count: '0', perSecond: '0' });
});

test('a gauge keeps its last value and its unit', async () => {
  const name = fresh();
  await engine.realtime.gauge.mutate({ name, value: '-0.5', unit: 'GB' });
  await engine.realtime.gauge.mutate({ name, value: 12.25, unit: 'GB' });
  expect(await engine.realtime.get.query({ name })).toMatchObject({ type: 'GAUGE', value: '12.25', unit: 'GB' });
});

test('the same labels in another order are the same series, others are another', async () => {
  const name = fresh();
  await engine.realtime.increment.mutate({ name, labels: { a: '1', b: '2' } });
  await engine.realtime.increment.mutate({ name, labels: { b: '2', a: '1' }, by: '2.5' });
  await engine.realtime.increment.mutate({ name, labels: { a: '2' } });
  expect((await engine.realtime.get.query({ name, labels: { b: '2', a: '1' } })).value).toBe('3.5');
  const { rows } = await engine.realtime.list.query();
  expect(rows.filter((row) => row.name === name).map((row) => row.labels)).toEqual([{ a: '1', b: '2' }, { a: '2' }]);
});

test('a name keeps its type, and its series stay within the limit, however many come at once', async () => {
  const name = fresh();
  const outcomes = await Promise.all(
    Array.from({ length: 8 }, (_, i) =>
      engine.realtime.increment.mutate({ name, labels: { i: String(i) } }).then(
        () => 'ok',
        (error) => error.data.code,
      ),
    ),
  );
  expect(outcomes.filter((outcome) => outcome === 'ok')).toHaveLength(3);
  expect(outcomes.filter((outcome) => outcome === 'CARDINALITY_LIMIT')).toHaveLength(5);
  await expect(engine.realtime.gauge.mutate({ name, value: '1' })).rejects.toMatchObject({
    data: { code: 'CONFLICT' },
  });
});

test('series without a point for their time to live make room for others', async () => {
  const name = fresh();
  const metrics = createRealtime({
    redis,
    limits: { names: 1000, seriesPerName: 1 },
    ttlSeconds: 60,
    watchMs: 10,
    now: () => now,
  });
  await metrics.increment({ merchantId: 'a', name, labels: { i: '1' } }, '1');
  const other = { merchantId: 'a', name, labels: { i: '2' } };
  await expect(metrics.increment(other, '1')).rejects.toMatchObject({ code: 'CARDINALITY_LIMIT' });
  now += 61_000;
  await metrics.increment(other, '1');
  expect((await metrics.get(other)).value).toBe('1');
});

test('a caller bound to a merchant reads and writes its metrics alone', async () => {
  const producer = as((await db.keys.create({ name: 'p', role: 'producer', merchantId: 'a' })).key);
  const viewer = as((await db.keys.create({ name: 'v', role: 'viewer', merchantId: 'a' })).key);
  const name = fresh();
  await producer.realtime.increment.mutate({ name });
  await engine.realtime.increment.mutate({ name, by: '7' });
  expect((await viewer.realtime.get.query({ name })).value).toBe('1');
  expect((await engine.realtime.get.query({ name })).value).toBe('7');
  expect((await engine.realtime.get.query({ name, merchantId: 'a' })).value).toBe('1');
  await expect(producer.realtime.increment.mutate({ name, merchantId: 'b' })).rejects.toMatchObject({
    data: { code: 'MERCHANT_FORBIDDEN' },
  });
  await expect(viewer.realtime.increment.mutate({ name })).rejects.toMatchObject({ data: { code: 'FORBIDDEN' } });
});

test.each([
  ['too precise', '0.0000000001'],
  ['an exponent', '1e3'],
  ['too large', '1'.repeat(16)],
  ['no number', 'many'],
])('an amount that is %s is refused', async (_, by) => {
  await expect(engine.realtime.increment.mutate({ name: fresh(), by })).rejects.toMatchObject({
    data: { code: 'INVALID_INPUT' },
  });
});

test('a watcher is told at once and of each change, and its stream ends with it', async () => {
  const name = fresh();
  await engine.realtime.increment.mutate({ name });
  const leaving = new AbortController();
  const input = encodeURIComponent(JSON.stringify({ name }));
  const response = await app.request(`/trpc/realtime.watch?input=${input}`, {
    headers: { authorization: `Bearer ${ADMIN}`, accept: 'text/event-stream' },
    signal: leaving.signal,
  });
  expect(response.headers.get('content-type')).toContain('text/event-stream');
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let heard = '';
  const hear = async (text: string) => {
    while (!heard.includes(text)) heard += (await reader.read()).value ?? '';
  };
  await hear('"value":"1"');
  await engine.realtime.increment.mutate({ name, by: '41' });
  await hear('"value":"42"');
  await reader.cancel();
  leaving.abort();
});

test('what Redis loses comes back from Postgres, added to what was counted since, and once', async () => {
  const backup = () => createBackup({ db, redis, ttlSeconds: 60, now: () => now });
  const metrics = realtime();
  const [counter, gauge, histogram, rate] = ['counter', 'gauge', 'histogram', 'rate'].map((kind) => ({
    merchantId: 'lost',
    name: `lost_${kind}`,
    labels: { region: 'eu' },
  }));
  await metrics.increment(counter!, '10.5');
  await metrics.gauge(gauge!, '3', 'GB');
  for (const value of ['1', '2', '300']) await metrics.observe(histogram!, value);
  await metrics.mark(rate!, 60);
  const before = await Promise.all([gauge!, histogram!, rate!].map((series) => metrics.get(series)));
  await backup().run();

  for (const key of await redis.keys('metrics:realtime:{lost}:*')) await redis.del(key);
  await expect(metrics.get(counter!)).rejects.toMatchObject({ code: 'NOT_FOUND' });
  await metrics.increment(counter!, '0.25');
  await Promise.all([backup().run(), backup().run()]);
  await backup().run();
  expect((await metrics.get(counter!)).value).toBe('10.75');
  expect(await Promise.all([gauge!, histogram!, rate!].map((series) => metrics.get(series)))).toEqual(before);

  now += 120_000;
  expect(await db.realtime.prune(now)).toBeGreaterThan(0);
  expect(await db.realtime.saved('lost', now)).toEqual([expect.objectContaining({ name: 'lost_histogram' })]);
});
