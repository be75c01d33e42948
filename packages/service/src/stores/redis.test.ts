import { once } from 'node:events';
import { type AddressInfo, createServer } from 'node:net';
import { expect, test } from 'vitest';
import { createRedis } from './redis.ts';

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
