import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { createServer } from 'node:net';

/** Below the ports that systems give to connections, and 10,000 more: the bus of a Redis Cluster node is that far above. */
const FIRST = 12_000;
const PORTS = 10_000;

/**
 * Returns a free port of the loopback interface that no other caller of this function gets while this process lives:
 * the server on it may end and start again.
 */
export async function freePort() {
  const start = Math.floor(Math.random() * PORTS);
  for (let tries = 0; tries < PORTS; tries++) {
    const port = FIRST + ((start + tries) % PORTS);
    if ((await isFree(port)) && (await claim(port))) return port;
  }
  throw new Error(`No port between ${FIRST} and ${FIRST + PORTS - 1} is free.`);
}

/** Returns true if nothing listens on a port of the loopback interface. */
export function isFree(port) {
  return new Promise((done) => {
    const server = createServer();
    server.once('error', () => done(false));
    server.listen(port, '127.0.0.1', () => server.close(() => done(true)));
  });
}

/** Takes the UDP port of the same number: the system lets one process have it, and frees it when that process ends. */
async function claim(port) {
  const socket = createSocket('udp4').unref();
  try {
    socket.bind(port, '127.0.0.1');
    await once(socket, 'listening');
    return true;
  } catch {
    socket.close();
    return false;
  }
}
