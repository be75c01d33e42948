import { addDays, type Day, dayOf, formatCost, parseSignedQuantity, startOfDay } from '@tally/contracts';
import type { EngineClient } from '@tally/contracts/client';
import { type Db, RELATIVE_ERROR } from '@tally/db';
import { type App, createRedis, type RedisClient, redisReady } from '@tally/service';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ADMIN, type Engine, prepareStores, type Stores } from '../../test/start.ts';
import { createBackup } from './backup.ts';
import { createRealtime } from './realtime.ts';
import { createReconcile } from './reconcile.ts';

let stores: Stores;
let db: Db;
let redis: RedisClient;
let app: App;
let engine: EngineClient;
let as: Engine['as'];
let now = Date.parse('2026-03-20T08:00:00Z');
let names = 0;

beforeAll(async () => {
  stores = await prepareStores();
  db = stores.db;
  redis = createRedis(stores.redis.url);
  await redisReady(redis);
  const started = await stores.start({ REALTIME_MAX_SERIES: '3', REALTIME_WATCH_MS: '10' }, () => now);
  ({ app, engine, as } = started);
  await redisReady(started.redis);
});

afterAll(async () => {
  redis.disconnect();
  await stores.close();
});

const fresh = () => `metric_${names++}`;
const backup = () => createBackup({ db, redis, ttlSeconds: 60, now: () => now });
const options = (limits = { names: 1000, seriesPerName: 10 }, ttlSeconds = 60) => ({
  redis,
  limits,
  ttlSeconds,
  watchMs: 10,
  now: () => now,
  restore: (merchantId: string | null) => backup().restore(merchantId),
});
const realtime = (...given: Parameters<typeof options>) => createRealtime(options(...given));

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
        const half = Math.ceil(values.length / 2);
        await Promise.all([
          histograms.observe({ merchantId: 'a', name }, values.slice(0, half)),
          ...values.slice(half).map((value) => histograms.observe({ merchantId: 'a', name }, [value])),
        ]);
        const sorted = thousandths.map((each) => each / 1000).sort((a, b) => a - b);
        const answer = await histograms.get({ merchantId: 'a', name });
        expect([answer.count, Number(answer.min), Number(answer.max)]).toEqual([
          String(values.length),
          sorted[0],
          sorted.at(-1),
        ]);
        const sum = thousandths.reduce((total, each) => total + BigInt(each) * 1_000_000n, 0n);
        // Half away from zero, like all averages.
        const [size, whole] = [sum < 0n ? -sum : sum, BigInt(values.length)];
        const mean = (2n * size + whole) / (2n * whole);
        expect(answer.mean).toBe(formatCost(sum < 0n ? -mean : mean));
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

test('a part of a window is the marks and the seconds of the same steps, at any moment of a step', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 1, max: 300 }),
      fc.array(fc.integer({ min: 0, max: 320_000 }), { minLength: 1, maxLength: 30 }),
      fc.integer({ min: 0, max: 10_000 }),
      async (asked, ages, moment) => {
        const series = { merchantId: 'a', name: fresh() };
        const at = now + moment + 400_000;
        const metrics = realtime(undefined, 3_600);
        for (const age of ages.sort((a, b) => b - a)) {
          now = at - age;
          await metrics.mark(series, 1, 300);
        }
        now = at;
        const { count, windowSeconds, perSecond } = await metrics.get(series, asked);
        expect(windowSeconds).toBeGreaterThanOrEqual(asked);
        expect(windowSeconds).toBeLessThanOrEqual(asked + 10);
        expect(count).toBe(String(ages.filter((age) => age < windowSeconds! * 1000).length));
        const millionths = (BigInt(count!) * 2_000_000_000n) / BigInt(Math.round(windowSeconds! * 1000));
        expect(perSecond).toBe(formatCost(((millionths + 1n) / 2n) * 1000n));
      },
    ),
    { numRuns: 30 },
  );
});

test('marks before the part of a window that was asked for are not counted in less time', async () => {
  const name = fresh();
  now = Math.ceil(now / 10_000) * 10_000;
  await engine.realtime.mark.mutate({ name, windowSeconds: 300, count: 1000 });
  now += 16_000;
  const answer = await engine.realtime.get.query({ name, windowSeconds: 11 });
  expect(answer).toMatchObject({ count: '0', perSecond: '0', windowSeconds: 16 });
  expect(await engine.realtime.get.query({ name, windowSeconds: 17 })).toMatchObject({
    count: '1000',
    windowSeconds: 26,
    perSecond: '38.461538',
  });
});

test('a window shorter than a step is answered as a step, not as many marks in less time', async () => {
  const name = fresh();
  now = Math.ceil(now / 20_000) * 20_000;
  await engine.realtime.mark.mutate({ name, windowSeconds: 600, count: 40 });
  expect(await engine.realtime.get.query({ name, windowSeconds: 1 })).toMatchObject({
    windowSeconds: 20,
    count: '40',
    perSecond: '2',
  });
});

test('a gauge keeps its last value and its unit', async () => {
  const name = fresh();
  await engine.realtime.gauge.mutate({ name, value: '-0.5', unit: 'GB' });
  await engine.realtime.gauge.mutate({ name, value: 12.25, unit: 'GB' });
  expect(await engine.realtime.get.query({ name })).toMatchObject({ type: 'GAUGE', value: '12.25', unit: 'GB' });
});

test('a label that objects would swallow is refused', async () => {
  const labels = JSON.parse('{"__proto__":"x","a":"1"}');
  await expect(engine.realtime.increment.mutate({ name: fresh(), labels })).rejects.toMatchObject({
    data: { code: 'INVALID_INPUT' },
  });
});

test('labels that look the same are the same series', async () => {
  const name = fresh();
  await engine.realtime.increment.mutate({ name, labels: { city: 'Mu\u0308nchen' } });
  await engine.realtime.increment.mutate({ name, labels: { city: 'M\u00fcnchen' } });
  expect(await engine.realtime.get.query({ name, labels: { city: 'Mu\u0308nchen' } })).toMatchObject({
    ...{ value: '2', labels: { city: 'M\u00fcnchen' } },
  });
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

test('a counter or a gauge that has expired is not found, and never 0', async () => {
  const metrics = realtime();
  const of = (kind: string, i: string) => ({ merchantId: 'expired', name: `expired_${kind}`, labels: { i } });
  for (const i of ['1', '2']) {
    await metrics.increment(of('counter', i), '7');
    await metrics.gauge(of('gauge', i), '42');
  }
  for (const kind of ['counter', 'gauge']) {
    await redis.del(`metrics:realtime:{expired}:value:expired_${kind}:[["i","1"]]`);
    await expect(metrics.get(of(kind, '1'))).rejects.toMatchObject({ code: 'NOT_FOUND' });
    expect((await metrics.get(of(kind, '2'))).value).toBe(kind === 'counter' ? '7' : '42');
  }
});

test('a series whose window is longer than the time to live is kept for its window', async () => {
  const metrics = realtime();
  const series = { merchantId: 'long', name: fresh() };
  await metrics.observe(series, ['1', '2', '3'], 3_600);
  now += 3_000_000;
  const listed = async () => (await metrics.list('long', { limit: 10 })).rows.map((row) => row.name);
  await metrics.forget('long');
  expect(await listed()).toEqual([series.name]);
  expect(await metrics.get(series)).toMatchObject({ count: '3' });
  now += 700_000;
  expect(await listed()).toEqual([]);
  expect(await metrics.forget('long')).toEqual({ series: 1, names: 1 });
});

test('fractions carry into whole units, so that only a sum that is too large is refused', async () => {
  const metrics = realtime();
  const series = (name: string) => ({ merchantId: 'carry', name });
  const key = (name: string) => `metrics:realtime:{carry}:value:${name}:[]`;
  // 10^8 whole units in nano-units, as stored before they carried.
  await metrics.increment(series('old'), '1');
  await redis.hset(key('old'), 'i', '5', 'n', '100000000999999999');
  await metrics.increment(series('old'), '0.000000002');
  expect((await metrics.get(series('old'))).value).toBe('100000006.000000001');
  expect(await redis.hgetall(key('old'))).toEqual({ i: '100000006', n: '1' });
  await fc.assert(
    fc.asyncProperty(fc.array(amount, { minLength: 2, maxLength: 12 }), async (amounts) => {
      const name = fresh();
      for (const by of amounts) await metrics.increment(series(name), by);
      const sum = amounts.reduce((total, by) => total + parseSignedQuantity('cost', by)!, 0n);
      expect((await metrics.get(series(name))).value).toBe(formatCost(sum));
      expect((await redis.hget(key(name), 'n'))!.replace('-', '').length).toBeLessThanOrEqual(9);
    }),
    { numRuns: 20 },
  );
  // The sign is no digit, and an amount that moves a large sum back towards 0 does not enlarge it.
  for (const [sum, by, outcome] of [
    ['-10000000000000000', '-5', 'stored'],
    ['99999999999999999', '5', 'stored'],
    ['100000000000000000', '5', 'TOTAL_LIMIT'],
    ['-100000000000000000', '-5', 'TOTAL_LIMIT'],
    ['100000000000000000', '-5', 'stored'],
    ['-100000000000000000', '5', 'stored'],
  ] as const) {
    await metrics.increment(series('limit'), '1');
    await redis.hset(key('limit'), 'i', sum);
    const ended = await metrics.increment(series('limit'), by).then(
      () => 'stored',
      (error) => error.code,
    );
    expect(`${sum} ${by} ${ended}`).toBe(`${sum} ${by} ${outcome}`);
    await redis.del(key('limit'));
  }
});

test('a key has so many places to watch, and others have theirs', async () => {
  const places = { all: 4, perCaller: 2 };
  const metrics = createRealtime({ ...options(), maxWatchers: places });
  const series = { merchantId: 'watched', name: fresh() };
  await metrics.increment(series, '1');
  const leaving = new AbortController();
  const watch = (callerId: string) => metrics.watch(series, undefined, callerId, leaving.signal);
  const first = (watcher: ReturnType<typeof watch>) => watcher.next();
  const watchers = [watch('a'), watch('a'), watch('b')];
  for (const watcher of watchers) expect((await first(watcher)).value).toMatchObject({ value: '1' });
  await expect(first(watch('a'))).rejects.toMatchObject({ code: 'RATE_LIMITED', details: { limit: 2 } });
  watchers.push(watch('c'));
  await first(watchers.at(-1)!);
  await expect(first(watch('d'))).rejects.toMatchObject({ code: 'RATE_LIMITED', details: { limit: 4 } });
  await watchers[0]!.return(undefined);
  expect((await first(watch('a'))).value).toMatchObject({ value: '1' });
  leaving.abort();
});

test('series without a point for their time to live make room for others', async () => {
  const name = fresh();
  const metrics = realtime({ names: 1000, seriesPerName: 1 });
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
  ['written with zeros before it', '007'],
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

test('restores what Redis lost from Postgres before anything is counted, once for all callers', async () => {
  const metrics = realtime();
  const [counter, gauge, histogram, rate] = ['counter', 'gauge', 'histogram', 'rate'].map((kind) => ({
    merchantId: 'lost',
    name: `lost_${kind}`,
    labels: { region: 'eu' },
  }));
  await metrics.increment(counter!, '10.5');
  await metrics.gauge(gauge!, '3', 'GB');
  await metrics.observe(histogram!, ['1', '2', '300']);
  await metrics.mark(rate!, 3, 60);
  const before = await Promise.all([gauge!, histogram!, rate!].map((series) => metrics.get(series)));
  await backup().run();

  for (const key of await redis.keys('metrics:realtime:{lost}:*')) await redis.del(key);
  await Promise.all([
    ...[1, 2].map(() => realtime().increment(counter!, '0.25')),
    backup().run(),
    backup().run(),
    backup().restore('lost'),
  ]);
  expect((await metrics.get(counter!)).value).toBe('11');
  for (const key of await redis.keys('metrics:realtime:{lost}:*')) await redis.del(key);
  expect(await Promise.all([gauge!, histogram!, rate!].map((series) => metrics.get(series)))).toEqual(before);

  now += 120_000;
  expect(await db.realtime.prune(now)).toBeGreaterThan(0);
  const kept = await db.realtime.saved('lost', { now, limit: 10 });
  expect(kept).toEqual([expect.objectContaining({ name: 'lost_histogram' })]);
});

test('a value that alone was lost comes back, and the others keep what was counted since their copy', async () => {
  const metrics = realtime();
  const [gone, kept] = ['gone', 'kept'].map((name) => ({ merchantId: 'partly', name }));
  await metrics.increment(gone!, '5');
  await metrics.increment(kept!, '5');
  await backup().run();
  await metrics.increment(kept!, '2');
  await redis.del('metrics:realtime:{partly}:value:gone:[]');
  expect(await backup().missing('partly')).toBe(1);
  expect(await backup().missing('partly')).toBe(0);
  expect([(await metrics.get(gone!)).value, (await metrics.get(kept!)).value]).toEqual(['5', '7']);
});

test('names that went quiet make room for others', async () => {
  const merchantId = 'quiet';
  const metrics = realtime({ names: 2, seriesPerName: 10 });
  await metrics.increment({ merchantId, name: 'one' }, '1');
  await metrics.increment({ merchantId, name: 'two', labels: { a: '1' } }, '1');
  const three = () => metrics.increment({ merchantId, name: 'three' }, '1');
  await expect(three()).rejects.toMatchObject({ code: 'CARDINALITY_LIMIT' });
  now += 59_000;
  await metrics.increment({ merchantId, name: 'two', labels: { a: '2' } }, '1');
  now += 2_000;
  await three();
  const { rows } = await metrics.list(merchantId, { limit: 10 });
  expect(rows.map((row) => [row.name, row.labels])).toEqual([
    ['three', {}],
    ['two', { a: '2' }],
  ]);
});

test('the smallest and the largest value are exact where a double is not', async () => {
  const series = { merchantId: 'a', name: fresh() };
  const metrics = realtime();
  const values = ['999999999999999.000000002', '999999999999999.000000001', '-999999999999999.000000001'];
  for (const value of values) await metrics.observe(series, [value]);
  await metrics.observe(series, ['-999999999999999.000000002', '999999999999999.000000003']);
  expect(await metrics.get(series)).toMatchObject({
    min: '-999999999999999.000000002',
    max: '999999999999999.000000003',
  });
});

test('no quantile is outside of what was observed', async () => {
  const series = { merchantId: 'a', name: fresh() };
  const metrics = realtime();
  for (const value of ['123456789.5', '123456789.5', '987654321987654']) await metrics.observe(series, [value]);
  expect(await metrics.get(series)).toMatchObject({
    min: '123456789.5',
    p50: '123456789.5',
    max: '987654321987654',
    p99: '123456789.5',
  });
  const one = { merchantId: 'a', name: fresh() };
  await metrics.observe(one, ['1234567.891']);
  expect(await metrics.get(one)).toMatchObject({ min: '1234567.891', p50: '1234567.891', p99: '1234567.891' });
});

test('series are listed page by page', async () => {
  const merchantId = fresh();
  const metrics = realtime({ names: 100, seriesPerName: 10 });
  const labelled = (name: string, label: string) => ({ merchantId, name, labels: { label } });
  const made = ['a', 'b', 'b.c', 'c'].flatMap((name) => ['1', '2', 'ü'].map((label) => labelled(name, label)));
  for (const series of made) await metrics.increment(series, '1');
  const listed: unknown[] = [];
  for (let cursor: string | undefined; ; ) {
    const page = await engine.realtime.list.query({ merchantId, limit: 2, ...(cursor && { cursor }) });
    expect(page.rows.length).toBeLessThanOrEqual(2);
    listed.push(...page.rows.map(({ name, labels }) => ({ merchantId, name, labels })));
    if (page.nextCursor === null) break;
    cursor = page.nextCursor;
  }
  expect(listed).toEqual(made);
  for (const cursor of ['x', Buffer.from('["a"]').toString('base64url'), Buffer.from('[1,2]').toString('base64url')])
    await expect(engine.realtime.list.query({ merchantId, cursor })).rejects.toMatchObject({
      data: { code: 'INVALID_CURSOR' },
    });
});

test('many points at once of one series are acknowledged when they are stored, each once', async () => {
  const name = fresh();
  const metrics = realtime();
  const series = { merchantId: 'a', name };
  await Promise.all(
    Array.from({ length: 500 }, (_, i) =>
      metrics.observe(series, i % 2 ? ['1', '2.5', '0'] : ['1000000000000000'.slice(0, 15)]),
    ),
  );
  expect((await metrics.get(series)).count).toBe('1000');
  const counter = { merchantId: 'a', name: fresh() };
  await Promise.all(Array.from({ length: 500 }, (_, i) => metrics.increment(counter, i % 2 ? '3' : '-0.5')));
  expect((await metrics.get(counter)).value).toBe('625');
});

test('the first window of a series stays, whoever else asks for another at the same moment', async () => {
  const series = { merchantId: 'a', name: fresh() };
  await Promise.all([10, 20, 30].map((window) => realtime().mark(series, 1, window)));
  expect(await realtime().get(series)).toMatchObject({ count: '3' });
});

test('a batch of observations is one call; an observation without a value is refused', async () => {
  const name = fresh();
  await engine.realtime.observe.mutate({ name, values: ['1', 2, '3.5'] });
  await engine.realtime.observe.mutate({ name, value: 4 });
  await engine.realtime.mark.mutate({ name: `${name}_rate`, count: 12 });
  expect(await engine.realtime.get.query({ name })).toMatchObject({ count: '4', min: '1', max: '4' });
  expect(await engine.realtime.get.query({ name: `${name}_rate` })).toMatchObject({ count: '12' });
  for (const input of [{ name }, { name, value: 1, values: [1] }, { name, values: [] }])
    await expect(engine.realtime.observe.mutate(input)).rejects.toMatchObject({ data: { code: 'INVALID_INPUT' } });
});

test('mirrors of counted usage are corrected when their day is over, derived types too; what is unknown is not 0', async () => {
  const count = (merchant_id: string, id: string, date: Day, cost: string) => ({
    ...{ merchant_id, id, date, time: startOfDay(date), requests: '1', cost, origin: 'direct' },
    ...{ prompt_tokens: '60', completion_tokens: '40' },
  });
  const today = dayOf(now);
  const [closed, older] = [addDays(today, -1), addDays(today, -2)];
  await db.journal.append({
    source: 'direct',
    lines: [count('m', '1', closed, '1500000000'), count('m', '2', older, '7')],
  });
  const metrics = realtime();
  const mirror = (name: string, date: string) => ({ merchantId: 'm', name, labels: { date } });
  await metrics.increment(mirror('usage.cost', closed), '1.25');
  await metrics.increment(mirror('usage.requests', older), '1');
  await metrics.increment(mirror('usage.requests', today), '9');
  await metrics.increment({ merchantId: 'm', name: 'usage.requests' }, '4');
  // Derived, and never recorded.
  await metrics.increment(mirror('usage.total_tokens', closed), '100');
  await metrics.increment(mirror('usage.total_tokens', older), '7');
  await metrics.increment(mirror('usage.images', older), '3');
  await metrics.increment({ ...mirror('usage.total_tokens', closed), merchantId: 'without-usage' }, '5');
  const reconcile = (drained: boolean) =>
    createReconcile({
      redis,
      db,
      backup: backup(),
      realtime: metrics,
      drain: async () => drained,
      now: () => now,
    })();
  expect(await reconcile(false)).toMatchObject({ usageCompared: false, corrected: [] });
  const { corrected } = await reconcile(true);
  expect(corrected.sort((a, b) => (a.name < b.name ? -1 : 1))).toEqual([
    { merchantId: 'm', name: 'usage.cost', date: closed, was: '1.25', is: '1.5' },
    { merchantId: 'm', name: 'usage.total_tokens', date: older, was: '7', is: '100' },
  ]);
  expect((await metrics.get(mirror('usage.total_tokens', closed))).value).toBe('100');
  expect((await metrics.get(mirror('usage.images', older))).value).toBe('3');
  expect((await metrics.get(mirror('usage.cost', closed))).value).toBe('1.5');
  expect((await metrics.get(mirror('usage.requests', today))).value).toBe('9');
  expect((await reconcile(true)).corrected).toEqual([]);
});
