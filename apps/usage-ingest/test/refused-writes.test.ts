import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createIngestClient, type IngestClient } from '@tally/contracts/client';
import { migrate } from '@tally/db';
import { createLog, createReleasers } from '@tally/service';
import { until } from '@tally/testkit';
import { Redis } from 'ioredis';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Servers, startServers } from '../../../infra/local/servers.mjs';
import { readEnv } from '../src/env.ts';
import { createIngestService, type IngestService } from '../src/service.ts';

/** A Redis that answers reads and refuses writes, below two processes of which only one flushes. */
const KEY = 'the-admin-key-of-the-tests';
const releasers = createReleasers();
let home: string;
let servers: Servers;
let redis: Redis;
/** `other` does not flush. */
let other: Process;

type Process = { service: IngestService; client: IngestClient };

/** How Redis is made to refuse writes, and to take them again. */
const REFUSALS: Record<string, [begin: () => Promise<unknown>, end: () => Promise<unknown>]> = {
  'is full': [() => redis.config('SET', 'maxmemory', '1mb'), () => redis.config('SET', 'maxmemory', '2gb')],
  // Of a master that does not answer it keeps its data.
  'is a replica': [() => redis.replicaof('127.0.0.1', 1), () => redis.replicaof('NO', 'ONE')],
  'has no replicas': [
    () => redis.config('SET', 'min-replicas-to-write', '1'),
    () => redis.config('SET', 'min-replicas-to-write', '0'),
  ],
};
const CASES = Object.keys(REFUSALS);

async function start(settings: Record<string, string>): Promise<Process> {
  const env = readEnv({
    DATABASE_URL: servers.databaseUrl,
    REDIS_URL: servers.redisUrl,
    TALLY_ADMIN_KEY: KEY,
    FLUSH_INTERVAL_MS: '20',
    ...settings,
  });
  const service = await createIngestService(env, { log: createLog('test', 'silent'), releasers });
  const client = createIngestClient({
    url: 'http://ingest',
    key: KEY,
    fetch: async (input, init) => service.app.request(input as string, init as RequestInit),
  });
  return { service, client };
}

beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), 'tally-refused-'));
  servers = await startServers({ home, durable: false });
  await migrate(servers.databaseUrl);
  redis = new Redis(servers.redisUrl, { enableReadyCheck: false });
  other = await start({ ENABLE_FLUSH: 'false' });
});
afterAll(async () => {
  await releasers.releaseAll();
  redis.disconnect();
  await servers.remove();
  await rm(home, { recursive: true, force: true });
});

const entryOf = (id: string, merchantId: string) => ({ id, merchantId, metrics: { queries: '1' } });

test('a flush makes room in a Redis that is full', async () => {
  const [begin, end] = REFUSALS['is full']!;
  await other.client.usage.record.mutate({ entries: [entryOf('waits', 'full')] });
  expect((await other.client.flush.status.query({})).pendingKeys).toBe(1);
  await begin();
  try {
    await start({});
    const waiting = async () => (await other.client.flush.status.query({})).pendingKeys;
    await until('nothing to wait in the full Redis', async () => (await waiting()) === 0);
  } finally {
    await end();
  }
});

test.each(CASES)('while a Redis %s, no process answers totals that are too low as complete', async (name) => {
  const [begin, end] = REFUSALS[name]!;
  const merchantId = `total ${name}`;
  const writer = await start({ ENABLE_FLUSH: 'false' });
  const current = () => other.client.usage.current.query({ merchantId });
  await until('the totals to be trusted', async () => (await other.service.repair.unrepaired()) === 0);
  await writer.client.usage.record.mutate({ entries: [entryOf('before', merchantId)] });
  expect(await current()).toMatchObject({ complete: true, metrics: { queries: '1' } });
  await begin();
  try {
    expect(await writer.client.usage.record.mutate({ entries: [entryOf('during', merchantId)] })).toMatchObject({
      accepted: 1,
    });
    await until('the event to be in the total', async () => (await current()).metrics.queries === '2');
    expect(await current()).toMatchObject({ complete: true, metrics: { queries: '2' } });
  } finally {
    await end();
  }
  // Nobody has marked the total yet.
  expect(await current()).toMatchObject({ complete: true, metrics: { queries: '2' } });
});

test.each(CASES)('what is settled while a Redis %s is no longer reserved once it takes writes', async (name) => {
  const [begin, end] = REFUSALS[name]!;
  const merchantId = `budget ${name}`;
  const { budgets } = other.client;
  const { id } = await budgets.create.mutate({
    ...{ scope: { merchantId }, measure: 'cost', limit: '10', period: 'total', enforcement: 'hard' },
  });
  const reserved = await Promise.all(
    ['with', 'without'].map((each) => budgets.reserve.mutate({ id: each, merchantId, amounts: { cost: '4' } })),
  );
  expect(reserved.map(({ allowed }) => allowed)).toEqual([true, true]);
  const [one, two] = reserved.map(({ reservationId }) => reservationId!);
  await begin();
  try {
    const entry = { id: 'used', merchantId, metrics: { cost: '1' } };
    const none = { settled: false, duplicates: 0 };
    expect(await budgets.settle.mutate({ reservationId: one!, entry })).toEqual({ ...none, accepted: 1 });
    expect(await budgets.settle.mutate({ reservationId: two! })).toEqual({ ...none, accepted: 0 });
  } finally {
    await end();
  }
  const sums = async () => {
    const { rows } = await budgets.status.query({ id });
    return rows.map(({ spent, reserved: left }) => ({ spent, left }));
  };
  await until('the reservations to end', async () => JSON.stringify(await sums()) === '[{"spent":"1","left":"0"}]');
});
