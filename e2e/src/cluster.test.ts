import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { addDays, dayOf } from '@tally/contracts';
import { createIngestClient } from '@tally/contracts/client';
import { migrate } from '@tally/db';
import { type FreshStore, freshDatabase, type ServiceProcess, startServiceProcess } from '@tally/testkit';
import { afterAll, beforeAll, expect, test } from 'vitest';

/** Three masters, and a replica of each: a real Redis Cluster on this machine. */
const NODES = 6;
const KEY = 'the-admin-key-of-the-cluster';

let home: string;
let nodes: { port: number; process: ChildProcess }[];
let database: FreshStore;
let ingests: ServiceProcess[] = [];

beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), 'tally-cluster-'));
  const ports = await freePorts(NODES);
  nodes = await Promise.all(ports.map(startNode));
  const addresses = ports.map((port) => `127.0.0.1:${port}`);
  const created = spawnSync(
    'redis-cli',
    ['--cluster', 'create', ...addresses, '--cluster-replicas', '1', '--cluster-yes'],
    { encoding: 'utf8' },
  );
  if (created.status !== 0) throw new Error(`${created.stdout}${created.stderr}`);
  await untilCluster(ports[0]!, (info) => info.includes('cluster_state:ok') && info.includes('cluster_known_nodes:6'));
  await untilReplicated(ports);
  database = await freshDatabase(migrate);
  const env = {
    DATABASE_URL: database.url,
    REDIS_URL: `redis://${addresses[0]}?cluster=true`,
    TALLY_ADMIN_KEY: KEY,
    FLUSH_INTERVAL_MS: '100',
    REDIS_WAIT_REPLICAS: '1',
    LOG_LEVEL: 'fatal',
  };
  ingests = await Promise.all([startServiceProcess('usage-ingest', env), startServiceProcess('usage-ingest', env)]);
});

afterAll(async () => {
  await Promise.all(ingests.map((ingest) => ingest.kill()));
  for (const node of nodes ?? []) node.process.kill('SIGKILL');
  await database?.drop();
  await rm(home, { recursive: true, force: true });
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
  const send = async (round: number) => {
    for (;;) {
      try {
        return await clients[round % 2]!.usage.record.mutate({ entries: batchOf(round) });
      } catch {
        await wait(100);
      }
    }
  };
  await Promise.all([0, 1, 2, 3].map(send));
  const master = nodes[0]!;
  master.process.kill('SIGKILL');
  await once(master.process, 'exit');
  // While a replica takes over, entries of its slots go to Postgres; afterwards to the new master.
  await Promise.all([4, 5, 6, 7].map(send));
  await untilCluster(nodes[1]!.port, (info) => info.includes('cluster_state:ok'));
  await Promise.all([8, 9, 0, 5].map(send));

  const today = dayOf(Date.parse(time));
  const scope = { startDate: addDays(today, -1), endDate: addDays(today, 1) };
  // A client that still asks the dead master finds the new one within a few tries.
  for (;;) {
    const drained = await clients[0]!.flush.drain.mutate({}).catch(() => undefined);
    if (drained?.complete && (await clients[0]!.flush.status.query({})).pendingKeys === 0) break;
    await wait(200);
  }
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

async function startNode(port: number): Promise<{ port: number; process: ChildProcess }> {
  const dir = join(home, String(port));
  await mkdir(dir);
  const options = [
    '--port',
    port,
    '--dir',
    dir,
    '--cluster-enabled',
    'yes',
    '--cluster-node-timeout',
    1000,
    '--appendonly',
    'yes',
    '--save',
    '',
  ];
  const process = spawn('redis-server', [...options.map(String), '--bind', '127.0.0.1'], { stdio: 'ignore' });
  while (cli(port, 'ping').trim() !== 'PONG') await wait(30);
  return { port, process };
}

const cli = (port: number, ...args: string[]) =>
  spawnSync('redis-cli', ['-p', String(port), ...args], { encoding: 'utf8' }).stdout;

async function untilCluster(port: number, is: (info: string) => boolean): Promise<void> {
  while (!is(cli(port, 'cluster', 'info'))) await wait(50);
}

async function untilReplicated(ports: number[]): Promise<void> {
  const linked = () =>
    ports.filter((port) => cli(port, 'info', 'replication').includes('master_link_status:up')).length;
  while (linked() < NODES / 2) await wait(50);
}

/** Ports whose cluster bus, 10,000 above, is a port too. */
async function freePorts(count: number): Promise<number[]> {
  const ports: number[] = [];
  for (let port = 21_000 + (process.pid % 5_000); ports.length < count; port++) {
    if ((await isFree(port)) && (await isFree(port + 10_000))) ports.push(port);
  }
  return ports;
}

async function isFree(port: number): Promise<boolean> {
  const server = createServer();
  return new Promise((resolve) => {
    server.once('error', () => resolve(false));
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
  });
}
