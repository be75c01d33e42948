import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { addDays, dayOf, type UsageEntry } from '@tally/contracts';
import { createIngestClient, type IngestClient } from '@tally/contracts/client';
import { migrate } from '@tally/db';
import { type ServiceProcess, startServiceProcess, until } from '@tally/testkit';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Servers, startServers } from '../../infra/local/servers.mjs';

const KEY = 'the-admin-key-of-the-outage';

let home: string;
let servers: Servers;
let ingest: ServiceProcess;
let others: ServiceProcess[];
let client: IngestClient;

beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), 'tally-outage-'));
  servers = await startServers({ home, durable: true });
  await migrate(servers.databaseUrl);
  const env = {
    DATABASE_URL: servers.databaseUrl,
    REDIS_URL: servers.redisUrl,
    TALLY_ADMIN_KEY: KEY,
    FLUSH_INTERVAL_MS: '100',
  };
  ingest = await startServiceProcess('usage-ingest', { ...env, LOG_LEVEL: 'fatal' });
  client = createIngestClient({ url: ingest.url, key: KEY });
  others = await Promise.all(
    ['metrics-engine', 'analytics-api'].map((app) =>
      startServiceProcess(app, { ...env, USAGE_INGEST_URL: ingest.url, LOG_LEVEL: 'fatal' }),
    ),
  );
});

afterAll(async () => {
  for (const service of [ingest, ...(others ?? [])]) await service?.stop();
  await servers?.remove();
  await rm(home, { recursive: true, force: true });
});

let batches = 0;
const send = async (merchantId: string): Promise<UsageEntry[]> => {
  const batch = batches++;
  const entries = Array.from({ length: 10 }, (_, index) => ({
    id: `${batch}-${index}`,
    merchantId,
    time: new Date().toISOString(),
    metrics: { prompt_tokens: '3' },
  }));
  const { accepted } = await client.usage.record.mutate({ entries });
  expect(accepted).toBe(10);
  return entries;
};

/** Resolves when totals are repaired after Redis restarted: from then on they are answered without Postgres. */
async function repaired(): Promise<void> {
  const isRepaired = async () => /^tally_totals_unrepaired_shards 0$/m.test(await metrics());
  await until('repaired totals', isRepaired);
}

async function metrics(): Promise<string> {
  return (await fetch(`${ingest.url}/metrics`, { headers: { authorization: `Bearer ${KEY}` } })).text();
}

/** Reads the state of the service until it is the expected one. */
function untilState(wanted: (state: Record<string, unknown>) => boolean): Promise<Response> {
  return until(`/readyz: ${wanted}`, async () => {
    const response = await fetch(`${ingest.url}/readyz`);
    return wanted((await response.clone().json()) as Record<string, unknown>) ? response : undefined;
  }) as Promise<Response>;
}

/** Resolves when both stores receive batches: a store that returns is checked before it is used. */
async function bothInUse(): Promise<void> {
  const inUse = async () => (await metrics()).match(/^tally_store_in_use\{store="\w+"\} 1$/gm);
  await until('both stores in use', async () => (await inUse())?.length === 2);
}

async function expectBooks(merchantId: string, requests: number): Promise<void> {
  await bothInUse();
  await client.flush.drain.mutate({});
  const today = dayOf(Date.now());
  const scope = { startDate: addDays(today, -1), endDate: today, merchantIds: [merchantId] };
  expect(await client.reconcile.check.query(scope)).toMatchObject({ balanced: true, drift: [] });
  const { metrics } = await client.usage.current.query({ merchantId, metricTypes: ['requests', 'prompt_tokens'] });
  expect(metrics).toEqual({ requests: String(requests), prompt_tokens: String(requests * 3) });
}

test('with Redis away entries go to Postgres, repeats of them too, and the totals are right when it is back', async () => {
  const before = await send('redis-away');
  await servers.redis.kill();
  await untilState((state) => state.redis === false);
  await send('redis-away');
  expect(await client.usage.record.mutate({ entries: before })).toMatchObject({
    accepted: expect.any(Number),
    rejected: [],
  });
  expect(await client.usage.current.query({ merchantId: 'redis-away' })).toMatchObject({
    metrics: { requests: expect.any(String) },
    complete: false,
  });
  await servers.redis.start();
  await untilState((state) => state.degraded === false);
  await send('redis-away');
  expect(await client.usage.record.mutate({ entries: before })).toMatchObject({ accepted: 0, duplicates: 10 });
  await expectBooks('redis-away', 30);
});

test('with Postgres away Redis goes on accepting, and the flush catches up', async () => {
  await repaired();
  await send('postgres-away');
  await servers.postgres.kill();
  const degraded = await untilState((state) => state.postgres === false);
  expect(degraded.status).toBe(200);
  await send('postgres-away');
  expect(await client.usage.current.query({ merchantId: 'postgres-away' })).toMatchObject({
    metrics: { requests: '20', prompt_tokens: '60' },
    complete: true,
  });
  await servers.postgres.start();
  await untilState((state) => state.degraded === false);
  await send('postgres-away');
  await expectBooks('postgres-away', 30);
});

test('with both away nothing is acknowledged, and the answer says when to come back', async () => {
  await send('both-away');
  await Promise.all([servers.redis.kill(), servers.postgres.kill()]);
  const unready = await untilState((state) => state.ok === false);
  expect(unready.status).toBe(503);
  const entry = {
    id: 'homeless',
    merchantId: 'both-away',
    time: new Date().toISOString(),
    metrics: { prompt_tokens: '3' },
  };
  const refused = await fetch(`${ingest.url}/trpc/usage.record`, {
    method: 'POST',
    headers: { authorization: `Bearer ${KEY}`, 'content-type': 'application/json' },
    body: JSON.stringify({ entries: [entry] }),
  });
  expect(refused.status).toBe(503);
  expect(refused.headers.get('retry-after')).toMatch(/^\d+$/);
  expect(await refused.json()).toMatchObject({ error: { data: { code: 'UNAVAILABLE' } } });
  await Promise.all([servers.redis.start(), servers.postgres.start()]);
  await untilState((state) => state.degraded === false);
  expect(await client.usage.record.mutate({ entries: [entry] })).toMatchObject({ accepted: 1 });
  await expectBooks('both-away', 11);
});

test('started without Redis it takes usage in Postgres, and uses Redis when that is there', async () => {
  await ingest.stop();
  await servers.redis.kill();
  await ingest.start();
  await send('without-redis');
  expect((await client.usage.current.query({ merchantId: 'without-redis' })).metrics.requests).toBe('10');
  await servers.redis.start();
  await untilState((state) => state.degraded === false);
  await repaired();
  await send('without-redis');
  await expectBooks('without-redis', 20);
});

test('started without Postgres it takes usage from the callers it had, and others are 503, never 401', async () => {
  const { key } = await client.keys.create.mutate({ name: 'producer', role: 'producer' });
  const unused = await client.keys.create.mutate({ name: 'unused', role: 'producer' });
  const entries = [{ id: 'first', merchantId: 'without-postgres', metrics: { prompt_tokens: '3' } }];
  const record = async (secret: string, id: string) => {
    const { status } = await fetch(`${ingest.url}/trpc/usage.record`, {
      method: 'POST',
      headers: { authorization: `Bearer ${secret}`, 'content-type': 'application/json' },
      body: JSON.stringify({ entries: entries.map((entry) => ({ ...entry, id })) }),
    });
    return status;
  };
  expect(await record(key, 'first')).toBe(200);
  await ingest.stop();
  await servers.postgres.kill();
  await ingest.start();
  expect(await record(key, 'second')).toBe(200);
  expect([await record(unused.key, 'third'), await record('made-up', 'third')]).toEqual([503, 503]);
  await servers.postgres.start();
  await untilState((state) => state.degraded === false);
  expect(await record(unused.key, 'third')).toBe(200);
  await expectBooks('without-postgres', 3);
});

test('every service starts without any store, says that it is not ready, and is when they are there', async () => {
  const services = [ingest, ...others];
  for (const service of services) await service.stop();
  await Promise.all([servers.redis.kill(), servers.postgres.kill()]);
  await Promise.all(services.map((service) => service.start('live')));
  for (const { url } of services) {
    const { status } = await fetch(`${url}/readyz`);
    expect(status).toBe(503);
  }
  await Promise.all([servers.redis.start(), servers.postgres.start()]);
  for (const { url } of services) await until(`${url} to be ready`, async () => (await fetch(`${url}/readyz`)).ok);
  await untilState((state) => state.degraded === false);
  await send('without-any');
  await expectBooks('without-any', 10);
});
