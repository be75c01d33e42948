import { randomUUID } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { getRequestListener } from '@hono/node-server';
import type { Log, Releasers } from '@tally/service';
import { Hono } from 'hono';
import { Counter, collectDefaultMetrics, Registry } from 'prom-client';
import type { Env } from './env.ts';
import { answerProblem, createForward } from './forward.ts';
import { readHealth } from './health.ts';
import { MAX_HEADER_BYTES } from './limits.ts';
import { readPages } from './pages.ts';
import { problemOf } from './problem.ts';
import { createSessions } from './sessions.ts';
import { createUpstream } from './upstream.ts';

const REQUEST_TIMEOUT_MS = 60_000;
/** Longer than browsers and load balancers keep idle connections: whoever closes first must not be us. */
const KEEP_ALIVE_MS = 75_000;
const CLOSE_IDLE_MS = 20;

export type ConsoleServer = Server & { stopAccepting(): void };

/**
 * The one origin: serves the page in `webFolder`, and passes everything else on to the service that owns it. Everything
 * opened is pushed to `releasers`.
 */
export async function createConsole(
  env: Env,
  { log, releasers, webFolder }: { log: Log; releasers: Releasers; webFolder: string },
): Promise<ConsoleServer> {
  const pages = await readPages(webFolder);
  const upstream = createUpstream({
    'usage-ingest': env.USAGE_INGEST_URL,
    'metrics-engine': env.METRICS_ENGINE_URL,
    'analytics-api': env.ANALYTICS_API_URL,
  });
  releasers.push('services', () => upstream.close());
  const stopping = new AbortController();
  const forward = createForward({
    upstream,
    maxBodyBytes: env.MAX_BODY_BYTES,
    maxForwardedBytes: env.MAX_FORWARDED_BYTES,
    stopping: stopping.signal,
  });
  const sessions = createSessions({ upstream });
  const registry = new Registry();
  collectDefaultMetrics({ register: registry, prefix: 'tally_' });
  const total = new Counter({
    name: 'tally_console_requests_total',
    help: 'HTTP requests by what answered them and status.',
    labelNames: ['kind', 'status'],
    registers: [registry],
  });

  const app = new Hono();
  app.get('/livez', (c) => c.json({ ok: true }));
  app.get('/readyz', async (c) => {
    const health = await readHealth(upstream);
    return c.json(health, health.ok ? 200 : 503);
  });
  app.get('/metrics', async (c) => c.body(await registry.metrics(), 200, { 'content-type': registry.contentType }));
  app.get('*', (c) => {
    const page = pages.find(c.req.path, c.req.header('accept-encoding'));
    if (page) return c.body(new Uint8Array(page.body), page.status as 200, page.headers);
    return c.notFound();
  });
  app.notFound((c) => c.json(problemOf('NOT_FOUND', `There is nothing at ${c.req.path}.`), 404));
  app.onError((error, c) => {
    log.error({ err: error }, 'unexpected error');
    return c.json(problemOf('INTERNAL', 'Something went wrong here.'), 500);
  });
  const web = getRequestListener(app.fetch);

  async function answer(request: IncomingMessage, response: ServerResponse, url: URL, requestId: string) {
    if (url.pathname === '/session') return sessions.answer({ request, response, url, requestId });
    const shown = sessions.credentialsOf(request);
    if ('refused' in shown) return answerProblem(response, shown.refused);
    // A session goes on as a key; cookies are ours.
    delete request.headers.cookie;
    if (await forward({ request, response, url, requestId, credentials: shown.headers })) return;
    await web(request, response);
  }

  const server = createServer({ maxHeaderSize: MAX_HEADER_BYTES }, (request, response) => {
    const started = performance.now();
    const requestId = String(request.headers['x-request-id'] ?? '').slice(0, 64) || randomUUID();
    const url = urlOf(request.url ?? '');
    response.setHeader('x-request-id', requestId);
    response.once('close', () => {
      const status = response.headersSent ? response.statusCode : 499;
      total.inc({ kind: kindOf(url?.pathname ?? ''), status });
      const durationMs = Math.round((performance.now() - started) * 100) / 100;
      const line = { requestId, method: request.method, path: url?.pathname.slice(0, 200), status, durationMs };
      if (status >= 500) log.warn(line, 'request');
      else log.info(line, 'request');
    });
    if (!url) return answerProblem(response, problemOf('NOT_FOUND', 'The path is not readable.'));
    answer(request, response, url, requestId).catch((error: unknown) => {
      log.error({ err: error }, 'unexpected error');
      response.destroy();
    });
  });
  server.requestTimeout = REQUEST_TIMEOUT_MS;
  server.keepAliveTimeout = KEEP_ALIVE_MS;
  return Object.assign(server, { stopAccepting: () => stopping.abort() });
}

/** Reads a request's target, with `..` resolved, so that what is checked is what is passed on. */
function urlOf(target: string): URL | undefined {
  const text = `http://console${target}`;
  return target.startsWith('/') && URL.canParse(text) ? new URL(text) : undefined;
}

function kindOf(path: string): string {
  if (path.startsWith('/trpc/')) return 'trpc';
  if (path.startsWith('/assets/') || path === '/' || path.startsWith('/app')) return 'page';
  return 'other';
}

/** Listens; the returned function stops intake and resolves when the requests under way are answered. */
export async function listenOn(
  server: ConsoleServer,
  address: { host: string; port: number },
): Promise<() => Promise<void>> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(address.port, address.host, resolve);
  });
  return async () => {
    server.stopAccepting();
    const closed = new Promise<void>((resolve) => server.close(() => resolve()));
    const closing = setInterval(() => server.closeIdleConnections(), CLOSE_IDLE_MS);
    await closed;
    clearInterval(closing);
  };
}
