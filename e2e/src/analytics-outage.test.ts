import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { addDays, dayOf } from '@tally/contracts';
import {
  type AnalyticsClient,
  createAnalyticsClient,
  createIngestClient,
  type IngestClient,
} from '@tally/contracts/client';
import { migrate } from '@tally/db';
import { type ServiceProcess, startServiceProcess, until } from '@tally/testkit';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Servers, startServers } from '../../infra/local/servers.mjs';

const KEY = 'the-admin-key-of-the-outage';
const TODAY = dayOf(Date.now());
const CLOSED = { startDate: addDays(TODAY, -3), endDate: addDays(TODAY, -2) };
const LIVE = { startDate: addDays(TODAY, -3), endDate: TODAY };

let home: string;
let servers: Servers;
let ingest: ServiceProcess;
let analytics: ServiceProcess;
let record: IngestClient;
let client: AnalyticsClient;

beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), 'tally-analytics-outage-'));
  servers = await startServers({ home, durable: false });
  await migrate(servers.databaseUrl);
  const env = {
    DATABASE_URL: servers.databaseUrl,
    REDIS_URL: servers.redisUrl,
    TALLY_ADMIN_KEY: KEY,
    ADMIN_ANALYTICS_RATE_LIMIT: '100000',
    LOG_LEVEL: 'fatal',
  };
  ingest = await startServiceProcess('usage-ingest', env);
  analytics = await startServiceProcess('analytics-api', { ...env, USAGE_INGEST_URL: ingest.url });
  record = createIngestClient({ url: ingest.url, key: KEY });
  client = createAnalyticsClient({ url: analytics.url, key: KEY });
  await count('first');
});

afterAll(async () => {
  await analytics?.stop();
  await ingest?.stop();
  await servers?.remove();
  await rm(home, { recursive: true, force: true });
});

const count = (id: string, date = CLOSED.startDate) =>
  record.usage.record.mutate({
    entries: [
      { id, merchantId: 'acme', userId: 'ann', model: 'm', time: `${date}T10:00:00Z`, metrics: { cost: '0.5' } },
    ],
  });

/** Runs every query about a range. */
const questions = (range: { startDate: string; endDate: string }) => ({
  summary: () => client.analytics.summary.query(range),
  breakdown: () => client.analytics.breakdown.query({ ...range, by: 'user' }),
  timeseries: () => client.analytics.timeseries.query({ ...range, interval: 'day' }),
  filterOptions: () => client.analytics.filterOptions.query(range),
  merchantUsage: () => client.analytics.merchantUsage.query({ ...range, merchantId: 'acme' }),
});

const untilReady = (path: string) =>
  until(`${path} to answer 200`, () =>
    fetch(path).then(
      (response) => response.ok,
      () => false,
    ),
  );

test('with Postgres away closed days that were asked before are answered, and all else says when to come back', async () => {
  const before = new Map<string, { coverage: object }>();
  for (const [name, ask] of Object.entries(questions(CLOSED))) before.set(name, await ask());
  for (const ask of Object.values(questions(LIVE))) await ask();
  await servers.postgres.kill();

  for (const [name, ask] of Object.entries(questions(CLOSED))) {
    const { coverage, ...answer } = await ask();
    const { coverage: covered, ...known } = before.get(name)!;
    expect(answer).toEqual(known);
    expect(coverage).toEqual({ ...covered, dataSource: 'cache', complete: false });
  }
  const never = { startDate: addDays(TODAY, -9), endDate: addDays(TODAY, -8) };
  const refused = [
    ...Object.values(questions(LIVE)),
    ...Object.values(questions(never)),
    () => client.days.status.query(never),
    () => client.days.get.query({ date: never.startDate }),
    () => client.days.rebuild.mutate(never),
    () => client.days.import.mutate({ documents: [{ date: never.startDate, aggregated_by_user: {} }] }),
    () => client.directory.list.query({ kind: 'user' }),
    () => client.cache.clear.mutate({}),
  ];
  for (const ask of refused)
    await expect(ask()).rejects.toMatchObject({ data: { code: 'UNAVAILABLE', httpStatus: 503 } });
  for (const path of [
    `/export/usage.csv?startDate=${TODAY}&endDate=${TODAY}`,
    `/trpc/analytics.summary?input=${encodeURIComponent(JSON.stringify(LIVE))}`,
  ]) {
    const response = await fetch(`${analytics.url}${path}`, { headers: { authorization: `Bearer ${KEY}` } });
    expect([response.status, response.headers.get('retry-after')]).toEqual([503, '1']);
    expect(await response.json()).toMatchObject({ error: { data: { code: 'UNAVAILABLE' } } });
  }
  expect((await fetch(`${analytics.url}/readyz`)).status).toBe(503);
  expect((await fetch(`${analytics.url}/livez`)).status).toBe(200);

  // Accepted by Redis meanwhile: in the answers once Postgres is back.
  expect(await count('meanwhile')).toMatchObject({ accepted: 1 });
  await servers.postgres.start();
  await untilReady(`${analytics.url}/readyz`);
  await untilReady(`${ingest.url}/readyz`);
  const settled = async () => (await questions(CLOSED).summary()).coverage.complete;
  await until('complete answers', settled);
  expect((await questions(CLOSED).summary()).totals).toMatchObject({ requests: '2', cost: '1' });
  expect((await questions(CLOSED).breakdown()).rows).toMatchObject([{ key: 'ann', requests: '2' }]);
});

test('with Redis away questions are answered from Postgres, uncached', async () => {
  await servers.redis.kill();
  const { totals, coverage } = await questions(CLOSED).summary();
  expect(totals.requests).toBe('2');
  expect(coverage.complete).toBe(false);
  expect(await (await fetch(`${analytics.url}/readyz`)).json()).toMatchObject({
    ok: true,
    degraded: true,
    redis: false,
  });
  for (const ask of Object.values(questions(LIVE))) await ask();
  await servers.redis.start();
  await until('complete answers', async () => (await questions(CLOSED).summary()).coverage.complete);
});

test('with ingest away questions are answered up to the last flush, and say so', async () => {
  await ingest.kill();
  for (const ask of Object.values(questions(LIVE))) {
    expect((await ask()).coverage).toMatchObject({ dataSource: 'cache', complete: false, asOf: expect.any(String) });
  }
  const today = await client.analytics.summary.query({ startDate: TODAY, endDate: TODAY });
  expect(today.coverage).toMatchObject({ dataSource: 'none', complete: false });
  const day = { date: addDays(TODAY, -20), raw_data: [{ totalRequests: 1, promptTokens: 1, completionTokens: 1 }] };
  await expect(client.days.import.mutate({ documents: [day], merchantId: 'acme' })).rejects.toMatchObject({
    data: { code: 'UNAVAILABLE' },
  });
  await ingest.start();
  expect((await questions(LIVE).summary()).coverage).toMatchObject({ dataSource: 'mixed', complete: true });
});
