import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { copyFile, mkdtemp, rm } from 'node:fs/promises';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Db, migrate, openDb } from '@tally/db';
import { createRedis, type RedisClient, redisReady } from '@tally/service';
import { type FreshStore, freePort, freshDatabase } from '@tally/testkit';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { createBackup } from './backup.ts';
import { createRealtime } from './realtime.ts';

let home: string;
let port: number;
let server: ChildProcess;
let store: FreshStore;
let db: Db;
let redis: RedisClient;
/** Two engines, each with its own connection. */
let engines: { backup: ReturnType<typeof createBackup>; realtime: ReturnType<typeof createRealtime> }[];
let connections: RedisClient[];

beforeAll(async () => {
  store = await freshDatabase(migrate);
  db = await openDb(store.url);
  port = await freePort();
});

beforeEach(async () => {
  await kill();
  home = await mkdtemp(join(tmpdir(), 'tally-loss-'));
  await startServer();
  for (const each of connections ?? []) each.disconnect();
  connections = [1, 2].map(() => createRedis(`redis://127.0.0.1:${port}`));
  redis = connections[0]!;
  await Promise.all(connections.map((each) => redisReady(each)));
  engines = connections.map(engineOn);
});

function engineOn(connection: RedisClient) {
  const backup = createBackup({ db, redis: connection, ttlSeconds: 600, now: Date.now });
  const realtime = createRealtime({
    redis: connection,
    limits: { names: 100, seriesPerName: 100 },
    ttlSeconds: 600,
    watchMs: 10,
    now: Date.now,
    restore: (merchantId) => backup.restore(merchantId),
  });
  return { backup, realtime };
}

afterAll(async () => {
  for (const each of connections) each.disconnect();
  await kill();
  await db.close();
  await store.drop();
});

const counter = (merchantId: string, name = 'calls') => ({ merchantId, name });

test('after FLUSHALL under traffic of two engines nothing is missing but what came after the last copy, nothing is double', async () => {
  const add = (engine: number, times: number) =>
    Promise.all(Array.from({ length: times }, () => engines[engine]!.realtime.increment(counter('flushed'), '1')));
  await Promise.all([add(0, 40), add(1, 60)]);
  await engines[0]!.backup.run();
  await redis.flushall();
  await Promise.all([add(0, 7), add(1, 5), engines[1]!.backup.run(), engines[0]!.backup.run()]);
  for (const { backup } of engines) await backup.run();
  for (const { realtime } of engines) expect((await realtime.get(counter('flushed'))).value).toBe('112');
});

test('a Redis that comes back with older data takes the newer copies, and keeps what has none', async () => {
  const [one, two] = engines;
  await one!.realtime.increment(counter('older'), '10');
  await one!.realtime.observe({ merchantId: 'older', name: 'size' }, ['1', '2']);
  await one!.backup.run();
  await redis.save();
  await copyFile(join(home, 'dump.rdb'), join(home, 'older.rdb'));
  await one!.realtime.increment(counter('older'), '100');
  await one!.realtime.gauge(counter('older', 'level'), '3');
  await one!.realtime.observe({ merchantId: 'older', name: 'size' }, ['50']);
  await one!.backup.run();
  await one!.realtime.increment(counter('older'), '1000');
  await restartWith('older.rdb');
  await Promise.all([
    two!.realtime.increment(counter('older'), '0.5'),
    one!.realtime.increment(counter('older'), '0.5'),
  ]);
  await Promise.all([one!.backup.run(), two!.backup.run()]);
  expect((await two!.realtime.get(counter('older'))).value).toBe('111');
  expect((await two!.realtime.get(counter('older', 'level'))).value).toBe('3');
  expect(await two!.realtime.get({ merchantId: 'older', name: 'size' })).toMatchObject({ count: '3', max: '50' });
});

test('a Redis that comes back whole keeps what is newer than its copies', async () => {
  const [one, two] = engines;
  await one!.realtime.increment(counter('whole'), '10');
  await one!.backup.run();
  await one!.realtime.increment(counter('whole'), '5');
  await redis.save();
  await restartWith('dump.rdb');
  await two!.realtime.increment(counter('whole'), '1');
  for (const { backup } of engines) await backup.run();
  expect((await one!.realtime.get(counter('whole'))).value).toBe('16');
});

test('with Postgres away nothing is counted on a Redis that has lost its data, and the caller is told', async () => {
  await engines[0]!.realtime.increment(counter('blind'), '1');
  await engines[0]!.backup.run();
  await redis.flushall();
  const blind = createRealtime({
    redis,
    limits: { names: 100, seriesPerName: 100 },
    ttlSeconds: 600,
    watchMs: 10,
    now: Date.now,
    restore: () => Promise.reject(new Error('connect ECONNREFUSED')),
  });
  await expect(blind.increment(counter('blind'), '1')).rejects.toMatchObject({ code: 'UNAVAILABLE' });
  await engines[1]!.realtime.increment(counter('blind'), '1');
  expect((await engines[0]!.realtime.get(counter('blind'))).value).toBe('2');
});

test('a connection that breaks before the answer comes counts no point twice', async () => {
  const link = await cuttableLink();
  const cut = createRedis(`redis://127.0.0.1:${link.port}`, () => {}, { repeats: false });
  await redisReady(cut);
  const { realtime } = engineOn(cut);
  await realtime.increment(counter('cut'), '1');
  link.cutAtNextAnswer();
  await expect(realtime.increment(counter('cut'), '10')).rejects.toMatchObject({ code: 'UNAVAILABLE' });
  await redisReady(cut);
  await realtime.increment(counter('cut'), '100');
  expect((await engines[0]!.realtime.get(counter('cut'))).value).toBe('111');
  cut.disconnect();
  await link.close();
});

/** A connection to Redis that can be cut after Redis has run a command, and before its answer is passed on. */
async function cuttableLink() {
  let cutting = false;
  const sockets = new Set<Socket>();
  const listener = createServer((client) => {
    const upstream = connect(port, '127.0.0.1');
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.on('error', () => {}).on('close', () => sockets.delete(socket));
    }
    client.pipe(upstream);
    upstream.on('data', (answer) => {
      if (!cutting) return void client.write(answer);
      cutting = false;
      client.destroy();
      upstream.destroy();
    });
    client.on('close', () => upstream.destroy());
  }).listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const address = listener.address();
  return {
    port: typeof address === 'object' && address ? address.port : 0,
    cutAtNextAnswer() {
      cutting = true;
    },
    async close() {
      for (const socket of sockets) socket.destroy();
      listener.close();
      await once(listener, 'close');
    },
  };
}

async function startServer(): Promise<void> {
  const options = ['--port', port, '--bind', '127.0.0.1', '--dir', home, '--save', '', '--appendonly', 'no'];
  server = spawn('redis-server', options.map(String), { stdio: 'ignore' });
  const probe = createRedis(`redis://127.0.0.1:${port}`);
  await redisReady(probe);
  probe.disconnect();
}

async function restartWith(dump: string): Promise<void> {
  const exited = once(server, 'exit');
  server.kill('SIGKILL');
  await exited;
  if (dump !== 'dump.rdb') await copyFile(join(home, dump), join(home, 'dump.rdb'));
  await startServer();
  await Promise.all(connections.map((each) => redisReady(each)));
}

async function kill(): Promise<void> {
  if (!server) return;
  server.kill('SIGKILL');
  if (server.exitCode === null && server.signalCode === null) await once(server, 'exit');
  await rm(home, { recursive: true, force: true });
}
