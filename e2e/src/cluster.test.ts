import { addDays, dayOf } from '@tally/contracts';
import { createIngestClient } from '@tally/contracts/client';
import { migrate } from '@tally/db';
import { type FreshStore, freshDatabase, type ServiceProcess, startServiceProcess, until } from '@tally/testkit';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type RedisCluster, startRedisCluster } from '../chaos/redis-cluster.mjs';

const KEY = 'the-admin-key-of-the-cluster';

let cluster: RedisCluster;
let database: FreshStore;
let ingests: ServiceProcess[] = [];
let env: Record<string, string>;

beforeAll(async () => {
  cluster = await startRedisCluster({ masters: 3, replicasEach: 1 });
  database = await freshDatabase(migrate);
  env = {
    DATABASE_URL: database.url,
    REDIS_URL: cluster.url,
    TALLY_ADMIN_KEY: KEY,
    FLUSH_INTERVAL_MS: '100',
    REDIS_WAIT_REPLICAS: '1',
    LOG_LEVEL: 'fatal',
  };
  ingests = await Promise.all([startServiceProcess('usage-ingest', env), startServiceProcess('usage-ingest', env)]);
});

afterAll(async () => {
  await Promise.all(ingests.map((ingest) => ingest.kill()));
  await cluster?.remove();
  await database?.drop();
});

test('two ingests on a cluster count each entry once, through the death of a master too', async () => {
  const clients = ingests.map(({ url }) => createIngestClient({ url, key: KEY }));
  const merchants = Array.from({ length: 12 }, (_, index) => `cluster-${index}`);
  const time = new Date().toISOString();
  const batchOf = (round: number) =>
    merchants.flatMap((merchantId) =>
      Array.from({ length: 5 }, (_, index) => ({
        id: `${round}-${index}`,
        merchantId,
        time,
        metrics: { prompt_tokens: '2' },
      })),
    );
  const send = (round: number) =>
    until(`batch ${round} to be acknowledged`, () =>
      clients[round % 2]!.usage.record.mutate({ entries: batchOf(round) }).catch(() => undefined),
    );
  await Promise.all([0, 1, 2, 3].map(send));
  await cluster.kill(0);
  // While a replica takes over, entries of its slots go to Postgres; afterwards to the new master.
  await Promise.all([4, 5, 6, 7].map(send));
  await cluster.untilOk(1);
  // The node that its address names first is dead.
  const late = await startServiceProcess('usage-ingest', env);
  ingests.push(late);
  await until('a service that starts now to reach Redis', async () => {
    const state = (await (await fetch(`${late.url}/readyz`)).json()) as { redis: boolean };
    return state.redis;
  });
  await Promise.all([8, 9, 0, 5].map(send));

  const today = dayOf(Date.parse(time));
  const scope = { startDate: addDays(today, -1), endDate: addDays(today, 1) };
  // A client that still calls the dead master finds the new one within a few tries.
  await until('a complete flush', async () => {
    const drained = await clients[0]!.flush.drain.mutate({}).catch(() => undefined);
    return drained?.complete && (await clients[0]!.flush.status.query({})).pendingKeys === 0;
  });
  expect(await clients[0]!.reconcile.check.query(scope)).toMatchObject({
    balanced: true,
    drift: [],
    merchantsChecked: 12,
  });
  for (const merchantId of merchants) {
    const { metrics } = await clients[1]!.usage.current.query({ merchantId, date: today });
    expect(metrics, merchantId).toEqual({ requests: '50', prompt_tokens: '100' });
  }
});
