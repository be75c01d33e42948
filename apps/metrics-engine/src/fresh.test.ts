import { once } from 'node:events';
import { createServer, type Server } from 'node:net';
import { createIngestClient } from '@tally/contracts/client';
import { type ServiceProcess, startServiceProcess } from '@tally/testkit';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ADMIN, type Engine, prepareStores, type Stores } from '../test/start.ts';

const DAY = { startDate: new Date().toISOString().slice(0, 10), endDate: new Date().toISOString().slice(0, 10) };

let stores: Stores;
let ingest: ServiceProcess;
let hanging: Server;

/** usage-ingest as a process that flushes only when it is asked. */
beforeAll(async () => {
  stores = await prepareStores();
  ingest = await startServiceProcess('usage-ingest', {
    DATABASE_URL: stores.store.url,
    REDIS_URL: stores.redis.url,
    TALLY_ADMIN_KEY: ADMIN,
    ENABLE_FLUSH: 'false',
  });
  hanging = createServer(() => {}).listen(0, '127.0.0.1');
  await once(hanging, 'listening');
});

afterAll(async () => {
  hanging.close();
  await ingest.stop();
  await stores.close();
});

let ids = 0;
const record = (merchantId: string) =>
  createIngestClient({ url: ingest.url, key: ADMIN }).usage.record.mutate({
    entries: [{ id: `e${ids++}`, merchantId, metrics: { queries: '5' } }],
  });

const formula = {
  metricType: 'SUM' as const,
  dataSource: 'events',
  calculationFormula: "SUM(metric('queries'))",
  ...DAY,
};
const sumOf = ({ engine }: Engine, merchantId: string) => engine.custom.test.mutate({ ...formula, merchantId });

test('metrics and rollups have what was acknowledged before they were asked for', async () => {
  const started = await stores.start({ USAGE_INGEST_URL: ingest.url });
  await record('a');
  expect(await sumOf(started, 'a')).toMatchObject({ value: '5', coverage: { complete: true } });
  await record('a');
  const { id } = await started.engine.custom.create.mutate({
    ...{ name: 'n', visibility: 'PRIVATE', metricType: 'SUM', dataSource: 'usage', calculationFormula: 'requests' },
  });
  const calculated = await started.engine.custom.calculate.mutate({ id, ...DAY, merchantId: 'a' });
  expect(calculated).toMatchObject({ value: '2', coverage: { complete: true } });

  const storedValues = async () => {
    const { rows } = await started.engine.rollups.daily.list.query({
      ...{ ...DAY, entityType: 'merchant', metricTypes: ['queries'] },
    });
    return rows.map((row) => row.value);
  };
  await record('a');
  const run = await started.engine.rollups.daily.run.mutate({ date: DAY.startDate });
  expect(run).toMatchObject({ status: 'COMPLETED', coverage: { complete: true, asOf: expect.any(String) } });
  expect(await storedValues()).toEqual(['15']);
  await record('a');
  expect(await started.engine.rollups.daily.backfill.mutate(DAY)).toMatchObject({ coverage: { complete: true } });
  expect(await storedValues()).toEqual(['20']);
});

test('many at once share the flushes, and each has what was acknowledged before it', async () => {
  const started = await stores.start({ USAGE_INGEST_URL: ingest.url, CUSTOM_MAX_PER_CALLER: '20' });
  const answers = await Promise.all(
    Array.from({ length: 8 }, async (_, index) => {
      await record('many');
      const { value } = await sumOf(started, 'many');
      return [index, value !== null && Number(value) >= 5] as const;
    }),
  );
  expect(answers.every(([, found]) => found)).toBe(true);
  expect((await sumOf(started, 'many')).value).toBe('40');
});

test('without usage-ingest, or with one that does not answer, the answer is what is stored, and says so', async () => {
  const { port } = hanging.address() as { port: number };
  const alone = { USAGE_INGEST_URL: 'http://127.0.0.1:1' };
  const waiting = { USAGE_INGEST_URL: `http://127.0.0.1:${port}`, DRAIN_TIMEOUT_MS: '50' };
  await record('behind');
  for (const settings of [alone, waiting]) {
    const started = await stores.start(settings);
    expect(await sumOf(started, 'behind')).toMatchObject({ value: null, coverage: { complete: false } });
    const run = await started.engine.rollups.daily.run.mutate({ date: DAY.startDate });
    expect(run).toMatchObject({ status: 'COMPLETED', coverage: { complete: false } });
  }
});

test('a metric of rollups says where some of them wait to be computed again', async () => {
  const started = await stores.start({ USAGE_INGEST_URL: ingest.url });
  const of = (day: string) =>
    started.engine.custom.test.mutate({
      ...{ ...formula, dataSource: 'daily_metrics', calculationFormula: 'value', startDate: day, endDate: day },
    });
  const [old, marked] = ['2026-01-10', '2026-01-20'];
  await stores.client.query(`insert into usage_touched_days (merchant_id, date) values ('a', '${marked}')`);
  expect((await of(old)).coverage.complete).toBe(true);
  expect((await of(marked)).coverage.complete).toBe(false);
  await started.engine.rollups.refresh.mutate();
  expect((await of(marked)).coverage.complete).toBe(true);
});
