import { once } from 'node:events';
import { type AddressInfo, createServer } from 'node:net';
import { expect, test } from 'vitest';
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
