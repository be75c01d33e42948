import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { freePort, until } from '@tally/testkit';
import { type Cluster, Redis } from 'ioredis';
import { expect, onTestFinished, test } from 'vitest';
import { createRedis, placeOf } from './redis.ts';

/** The first byte of a TLS connection: a handshake record. */
const TLS_HANDSHAKE = 0x16;

test.each(['', '?cluster=true'])('rediss://…%s speaks TLS', async (query) => {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const client = createRedis(`rediss://:password@127.0.0.1:${port}${query}`);
  const [socket] = await once(server, 'connection');
  const [data] = await once(socket, 'data');
  expect(data[0]).toBe(TLS_HANDSHAKE);
  client.disconnect();
  socket.destroy();
  server.close();
});

test('a patient client connects to a cluster that is down, so that a worker of a queue goes on once it is up', async () => {
  const [dir, port] = [await mkdtemp(join(tmpdir(), 'tally-redis-')), await freePort()];
  const settings = { port, dir, bind: '127.0.0.1', 'cluster-enabled': 'yes', save: '' };
  const options = Object.entries(settings).flatMap(([name, value]) => [`--${name}`, String(value)]);
  const server = spawn('redis-server', options, { stdio: 'ignore' });
  const node = new Redis(port);
  node.on('error', () => {});
  const client = createRedis(`redis://127.0.0.1:${port}?cluster=true`, () => {}, { patient: true });
  // As BullMQ makes its connection for blocking commands.
  const copy = (client as Cluster).duplicate([], { lazyConnect: true });
  copy.on('error', () => {});
  onTestFinished(async () => {
    for (const each of [copy, client, node]) each.disconnect();
    server.kill('SIGKILL');
    await once(server, 'exit');
    await rm(dir, { recursive: true });
  });
  // A cluster that lacks slots is down.
  await until('a slot', () => node.call('cluster', 'addslots', '0').catch(() => false));
  expect(await node.call('cluster', 'info')).toContain('cluster_state:fail');
  await copy.connect();
  expect(copy.status).toBe('ready');
});

test('an address may name several nodes of a cluster', () => {
  const { nodes, shared, isCluster } = placeOf('rediss://ada:p%40,ss@one:7000,two,[::1]:7002/?cluster=true');
  expect(nodes).toEqual([
    { host: 'one', port: 7000 },
    { host: 'two', port: 6379 },
    { host: '::1', port: 7002 },
  ]);
  expect([shared.username, shared.password, isCluster]).toEqual(['ada', 'p%40,ss', true]);
  expect(placeOf('redis://:p@ss@one/2')).toMatchObject({ nodes: [{ host: 'one', port: 6379 }], isCluster: false });
});

test.each([
  ['postgres://one', 'Expected redis://… or rediss://…'],
  ['redis://', 'Expected redis://… or rediss://…'],
  ['redis://one,two', 'Several nodes need ?cluster=true'],
  ['redis://one,?cluster=true', 'A node has no name'],
  ['redis://one:x', 'Invalid URL'],
])('%s is refused: %s', (url, message) => {
  expect(() => placeOf(url)).toThrow(message);
});
