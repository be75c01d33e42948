import { once } from 'node:events';
import { createServer, type RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as wait } from 'node:timers/promises';
import { Counter, type Registry } from 'prom-client';
import type { EdgeEnv } from '../process/env.ts';
import { handleRequests, MAX_HEADER_BYTES } from './connections.ts';

export type Listening = {
  port: number;
  /**
   * Reports that the service is stopping, closes the port after `SHUTDOWN_DELAY_MS`, resolves once all requests are
   * answered.
   */
  stop(): Promise<void>;
};

export type ServerOptions = {
  handle: RequestListener;
  /** Requests that are not answered yet. */
  underWay(): number;
  env: EdgeEnv;
  registry: Registry;
  /** Called when a stop begins, so that load balancers send callers elsewhere. */
  leave(): void;
  /** Called before the port is closed, to end long answers. */
  stopAccepting(): void;
};

const CLOSE_IDLE_MS = 20;
const REQUEST_TIMEOUT_MS = 60_000;
const HEADERS_TIMEOUT_MS = 10_000;
const CHECK_CONNECTIONS_MS = 2_000;
/** Longer than clients and load balancers keep idle connections, so that they close first. */
const KEEP_ALIVE_MS = 75_000;

/** Creates the function that listens, with limits on connections and on the time a request may take to arrive. */
export function createListen({ handle, underWay, env, registry, leave, stopAccepting }: ServerOptions) {
  const dropped = new Counter({
    name: 'tally_http_connections_dropped_total',
    help: 'Connections beyond MAX_CONNECTIONS, closed without an answer.',
    registers: [registry],
  });

  return async ({ host, port }: { host: string; port: number }): Promise<Listening> => {
    const server = createServer({
      requireHostHeader: false,
      maxHeaderSize: MAX_HEADER_BYTES,
      connectionsCheckingInterval: CHECK_CONNECTIONS_MS,
    });
    handleRequests(server, handle);
    // The client asks before it sends its body; the edge answers when it wants the body.
    server.on('checkContinue', (request, response) => server.emit('request', request, response));
    // Other expectations may be ignored (RFC 9110, 10.1.1). Node's own answer has no body that says what is wrong.
    server.on('checkExpectation', (request, response) => server.emit('request', request, response));
    server.on('drop', () => dropped.inc());
    server.maxConnections = env.MAX_CONNECTIONS;
    server.requestTimeout = REQUEST_TIMEOUT_MS;
    server.headersTimeout = HEADERS_TIMEOUT_MS;
    server.keepAliveTimeout = KEEP_ALIVE_MS;
    server.listen(port, host);
    await once(server, 'listening');
    return {
      port: (server.address() as AddressInfo).port,
      async stop() {
        leave();
        await wait(env.SHUTDOWN_DELAY_MS);
        stopAccepting();
        const closed = new Promise<void>((resolve) => server.close(() => resolve()));
        // Repeated: a connection whose request just ended would stay open for its whole idle time. One that never sent
        // a request is not idle for Node, and its timeouts end with `close`.
        const closing = setInterval(() => {
          if (underWay() === 0) server.closeAllConnections();
          else server.closeIdleConnections();
        }, CLOSE_IDLE_MS);
        await closed;
        clearInterval(closing);
      },
    };
  };
}
