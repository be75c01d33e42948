import { randomUUID } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { setTimeout as wait } from 'node:timers/promises';
import { openApi } from '@tally/contracts/openapi';
import {
  collectProcess,
  createBodies,
  createCallerLimits,
  dropBody,
  handleRequests,
  type Log,
  MAX_HEADER_BYTES,
  type Releasers,
  serviceKeyOf,
} from '@tally/service';
import { Counter, Registry } from 'prom-client';
import type { Env } from './env.ts';
import { answerProblem, createForward, type Exchange } from './forward.ts';
import { readHealth } from './health.ts';
import { MAX_MIXED_AT_ONCE, MAX_MIXED_OF_ONE_CALLER } from './limits.ts';
import { readPages } from './pages.ts';
import { problemOf } from './problem.ts';
import { createSessions } from './sessions.ts';
import { createUpstream } from './upstream.ts';

const REQUEST_TIMEOUT_MS = 60_000;
const HEADERS_TIMEOUT_MS = 10_000;
/** Less than the services take, since forwarded requests get more headers. */
const SERVER_OPTIONS = { maxHeaderSize: MAX_HEADER_BYTES - 2 * 1024, connectionsCheckingInterval: 2_000 };
/** Longer than browsers and load balancers keep idle connections, so that they close first. */
const KEEP_ALIVE_MS = 75_000;
const CLOSE_IDLE_MS = 20;
/** The status in logs and metrics of a request whose client left before its answer. */
const CLIENT_LEFT = 499;
const LOOPBACK = /^(localhost|127(\.\d+){3}|::1)$/;

export type ConsoleServer = Server & {
  /** `/readyz` answers 503 from now on, so that load balancers send callers elsewhere. */
  leave(): void;
  /** Ends long answers. */
  stopAccepting(): void;
};

/**
 * The one origin: serves the page in `webFolder`, and forwards everything else to the service that owns it. Pushes
 * everything opened to `releasers`.
 */
export async function createConsole(
  env: Env,
  { log, releasers, webFolder }: { log: Log; releasers: Releasers; webFolder: string },
): Promise<ConsoleServer> {
  const pages = await readPages(webFolder);
  /** All services in one; none of them has to answer. Made when first asked. */
  let document: string | undefined;
  const addresses = {
    'usage-ingest': env.USAGE_INGEST_URL,
    'metrics-engine': env.METRICS_ENGINE_URL,
    'analytics-api': env.ANALYTICS_API_URL,
  };
  const upstream = createUpstream({ addresses, serviceKey: serviceKeyOf(env), log });
  releasers.push('services', () => upstream.close());
  const stopping = new AbortController();
  let leaving = false;
  const forward = createForward({
    upstream,
    bodies: createBodies({
      total: MAX_MIXED_AT_ONCE * env.MAX_BODY_BYTES,
      perCaller: MAX_MIXED_OF_ONE_CALLER * env.MAX_BODY_BYTES,
      progressMs: env.BODY_PROGRESS_MS,
    }),
    maxBodyBytes: env.MAX_BODY_BYTES,
    limits: createCallerLimits({ atOnce: MAX_MIXED_OF_ONE_CALLER, perMinute: Number.MAX_SAFE_INTEGER }),
    maxForwardedBytes: env.MAX_FORWARDED_BYTES,
    stopping: stopping.signal,
  });
  const sessions = createSessions({ upstream });
  const registry = new Registry();
  collectProcess(registry);
  const total = new Counter({
    name: 'tally_console_requests_total',
    help: 'HTTP requests by what answered them and status.',
    labelNames: ['kind', 'status'],
    registers: [registry],
  });

  async function answer(exchange: Exchange): Promise<void> {
    const { request, response, url } = exchange;
    const { pathname } = url;
    if (pathname === '/session') return sessions.answer(exchange);
    if (await forward(exchange)) return;
    if (request.method !== 'GET' && request.method !== 'HEAD')
      return answerProblem(response, problemOf('NOT_FOUND', `There is nothing at ${pathname.slice(0, 200)}.`));
    if (pathname === '/livez') return send(response, 200, JSON_TYPE, JSON.stringify({ ok: true }));
    if (pathname === '/readyz') {
      const health = await readHealth(upstream);
      const ok = health.ok && !leaving;
      return send(response, ok ? 200 : 503, JSON_TYPE, JSON.stringify({ ...health, ok, stopping: leaving }));
    }
    if (pathname === '/openapi.json') {
      document ??= JSON.stringify(openApi());
      return send(response, 200, JSON_TYPE, document);
    }
    if (pathname === '/metrics' && (LOOPBACK.test(env.HOST) || (await sessions.mayRead(exchange))))
      return send(response, 200, registry.contentType, await registry.metrics());
    const page = pages.find(pathname, request.headers['accept-encoding']);
    if (!page) return answerProblem(response, problemOf('NOT_FOUND', `There is nothing at ${pathname.slice(0, 200)}.`));
    response.writeHead(200, page.headers);
    response.end(request.method === 'HEAD' ? undefined : page.body);
  }

  const server = createServer(SERVER_OPTIONS);
  handleRequests(server, (request, response) => {
    const started = performance.now();
    const requestId = requestIdOf(request);
    const url = urlOf(request.url ?? '');
    response.setHeader('x-request-id', requestId);
    // Node forgets the socket of a request that it has aborted.
    const { socket } = request;
    response.once('finish', () => {
      if (request.complete) return;
      request.unpipe();
      dropBody(request, () => request.complete || socket.destroy());
    });
    response.once('close', () => {
      const status = response.writableFinished ? response.statusCode : CLIENT_LEFT;
      total.inc({ kind: kindOf(url?.pathname ?? ''), status });
      const durationMs = Math.round((performance.now() - started) * 100) / 100;
      const line = { requestId, method: request.method, path: url?.pathname.slice(0, 200), status, durationMs };
      if (status >= 500) log.warn(line, 'request');
      else log.info(line, 'request');
    });
    if (!hasReadableHost(request))
      return answerProblem(response, problemOf('INVALID_INPUT', 'Send one Host header with a name or an address.'));
    if (!url && request.method === 'OPTIONS' && request.url === '*') {
      response.writeHead(204, { allow: 'GET, POST, PUT, DELETE, HEAD, OPTIONS' });
      return void response.end();
    }
    if (!url) return answerProblem(response, problemOf('NOT_FOUND', 'The path is not readable.'));
    answer({ request, response, url, requestId }).catch((error: unknown) => {
      log.error({ err: error }, 'unexpected error');
      if (response.headersSent) response.destroy();
      else
        answerProblem(response, problemOf('INTERNAL', 'An unexpected error. The log of this service has the details.'));
    });
  });
  server.maxConnections = env.MAX_CONNECTIONS;
  server.requestTimeout = REQUEST_TIMEOUT_MS;
  server.headersTimeout = HEADERS_TIMEOUT_MS;
  server.keepAliveTimeout = KEEP_ALIVE_MS;
  return Object.assign(server, {
    leave: () => {
      leaving = true;
    },
    stopAccepting: () => stopping.abort(),
  });
}

const JSON_TYPE = 'application/json';
const REQUEST_ID = /^[\x21-\x7e]{1,64}$/;

function requestIdOf({ headers }: IncomingMessage): string {
  const named = headers['x-request-id'];
  return typeof named === 'string' && REQUEST_ID.test(named) ? named : randomUUID();
}

/**
 * Returns true if a request names its host once, and readably. Node keeps the first of several, where an earlier proxy
 * may have checked another; services hang up on one that no URL can hold.
 */
function hasReadableHost({ rawHeaders, headers: { host = '' } }: IncomingMessage): boolean {
  const hosts = rawHeaders.filter((name, index) => index % 2 === 0 && name.toLowerCase() === 'host');
  const isReadable = host === '' || (!/[\s/?#@\\]/.test(host) && URL.canParse(`http://${host}/`));
  return hosts.length <= 1 && isReadable;
}

function send(response: ServerResponse, status: number, type: string, text: string): void {
  response.writeHead(status, {
    'content-type': type,
    'content-length': Buffer.byteLength(text),
    'cache-control': 'no-store',
    ...(status === 503 && { 'retry-after': '1' }),
  });
  response.end(response.req.method === 'HEAD' ? undefined : text);
}

/** Parses a request's target with `..` resolved, so that the checked path is the forwarded one. */
function urlOf(target: string): URL | undefined {
  const text = `http://console${target}`;
  return target.startsWith('/') && URL.canParse(text) ? new URL(text) : undefined;
}

function kindOf(path: string): string {
  if (path.startsWith('/trpc/')) return 'trpc';
  if (path.startsWith('/assets/') || path === '/' || path.startsWith('/app')) return 'page';
  return 'other';
}

/**
 * Listens. The returned function reports that the console is stopping, closes the port after `shutdownDelayMs`, and
 * resolves when all requests are answered.
 */
export async function listenOn(
  server: ConsoleServer,
  address: { host: string; port: number; shutdownDelayMs?: number },
): Promise<() => Promise<void>> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(address.port, address.host, resolve);
  });
  return async () => {
    server.leave();
    await wait(address.shutdownDelayMs ?? 0);
    server.stopAccepting();
    const closed = new Promise<void>((resolve) => server.close(() => resolve()));
    const closing = setInterval(() => server.closeIdleConnections(), CLOSE_IDLE_MS);
    await closed;
    clearInterval(closing);
  };
}
