import { randomUUID } from 'node:crypto';
import { createServer, type IncomingMessage, type Server } from 'node:http';
import { getRequestListener } from '@hono/node-server';
import { ERRORS, type TallyError } from '@tally/contracts';
import { type AnyRouter, TRPCError } from '@trpc/server';
import { fetchRequestHandler } from '@trpc/server/adapters/fetch';
import { Hono, type Context as HonoContext } from 'hono';
import { bodyLimit } from 'hono/body-limit';
import type { Registry } from 'prom-client';
import type { Authenticate, Credentials } from './auth.ts';
import { createDirect, type Direct } from './direct.ts';
import type { Log } from './log.ts';
import { collectProcess, countRequests } from './metrics.ts';
import { understand } from './trpc.ts';

/** One dependency's state: `ok` false makes the service not ready; `notes` say what is worth knowing either way. */
export type Health = { ok: boolean; degraded?: boolean; notes?: string[]; [fact: string]: unknown };

export type AppOptions = {
  name: string;
  log: Log;
  router: AnyRouter;
  authenticate: Authenticate;
  maxBodyBytes: number;
  /** Paths whose bodies may have another size. */
  bodyLimits?: Readonly<Record<string, number>>;
  registry: Registry;
  /** Asked by `/readyz`; a service that is stopping is not ready whatever this says. */
  health(): Promise<Health>;
};

export type App = Hono & {
  stopAccepting(): void;
  /** Aborted when the service begins to stop: what lasts long ends now. */
  stopping: AbortSignal;
  /** Answers what needs no Web request; see direct.ts. */
  direct: Direct;
};

const RETRY_AFTER_SECONDS = 1;
const CLOSE_IDLE_MS = 20;

/** The HTTP face that all services share: /trpc, /livez, /readyz, /metrics, limits, one log line per request. */
export function createApp(options: AppOptions): App {
  const { log, registry, router, maxBodyBytes } = options;
  const app = new Hono<{ Variables: { event: Record<string, unknown> } }>();
  const count = countRequests(registry);
  collectProcess(registry);
  const stopping = new AbortController();

  /** What is known of a request from its beginning: `answered` counts it and writes its one log line. */
  const begin = (named: string | undefined) => {
    const started = performance.now();
    const requestId = named?.slice(0, 64) ?? randomUUID();
    const event: Record<string, unknown> = {};
    const answered = ({ method, path, status }: { method: string; path: string; status: number }) => {
      const durationMs = performance.now() - started;
      count(path, status, durationMs);
      const line = { requestId, method, path, status, durationMs: Math.round(durationMs * 100) / 100, ...event };
      if (status >= 500) log.error(line, 'request');
      else log.info(line, 'request');
    };
    return { requestId, event, answered };
  };
  const contextOf = (event: Record<string, unknown>, credentials: Credentials) => {
    let caller: ReturnType<Authenticate> | undefined;
    return { event, stopping: stopping.signal, caller: () => (caller ??= options.authenticate(credentials)) };
  };
  const failed = (event: Record<string, unknown>, error: TRPCError, path: string | undefined) => {
    const known = understand(error);
    event.procedure = path;
    event.code = known.code;
    if (known.code === 'INTERNAL') log.error({ err: known.cause ?? error, path }, 'unexpected error');
    else if (known.code === 'UNAVAILABLE' && known.cause) log.warn({ err: known.cause, path }, 'unavailable');
  };

  app.get('/livez', (c) => c.json({ ok: true }));
  app.get('/readyz', async (c) => {
    const health = await options.health().catch((error: unknown): Health => ({ ok: false, notes: [String(error)] }));
    const ok = !stopping.signal.aborted && health.ok;
    return c.json({ ...health, ok, service: options.name, stopping: stopping.signal.aborted }, ok ? 200 : 503);
  });
  app.get('/metrics', async (c) => c.body(await registry.metrics(), 200, { 'content-type': registry.contentType }));

  app.use('*', async (c, next) => {
    const { requestId, event, answered } = begin(c.req.header('x-request-id'));
    c.set('event', event);
    await next();
    c.header('x-request-id', requestId);
    if (isBusy(c.res.status)) c.header('retry-after', c.res.headers.get('retry-after') ?? String(RETRY_AFTER_SECONDS));
    answered({ method: c.req.method, path: c.req.path, status: c.res.status });
  });
  const limitTo = (maxSize: number) => bodyLimit({ maxSize, onError: (c) => problem(c, tooLarge(maxSize)) });
  const usual = limitTo(maxBodyBytes);
  const own = new Map(Object.entries(options.bodyLimits ?? {}).map(([path, maxSize]) => [path, limitTo(maxSize)]));
  app.use('*', (c, next) => (own.get(c.req.path) ?? usual)(c, next));

  app.all('/trpc/*', (c) => {
    const event = c.get('event');
    return fetchRequestHandler({
      endpoint: '/trpc',
      req: typed(c.req.raw),
      router,
      // A question may be longer than a URL.
      allowMethodOverride: true,
      createContext: () => contextOf(event, credentialsOf(c)),
      responseMeta({ errors }) {
        const seconds = errors.map((error) => retryAfterOf(understand(error))).filter((value) => value !== undefined);
        return seconds.length > 0 ? { headers: { 'retry-after': String(Math.max(...seconds)) } } : {};
      },
      onError: ({ error, path }) => failed(event, error, path),
    });
  });

  app.notFound((c) => problem(c, { code: 'NOT_FOUND', message: `There is nothing at ${c.req.path}.` }));
  app.onError((error, c) => {
    const known = understand(
      error instanceof SyntaxError ? new TRPCError({ code: 'PARSE_ERROR', cause: error }) : error,
    );
    if (known.code === 'INTERNAL') log.error({ err: error }, 'unexpected error');
    return problem(c, known);
  });

  return Object.assign(app as unknown as Hono, {
    stopAccepting: () => stopping.abort(),
    stopping: stopping.signal,
    direct: createDirect({
      router,
      maxBodyBytes,
      begin({ requestId: named, authorization, address }) {
        const { requestId, event, answered } = begin(named);
        return {
          context: contextOf(event, { secret: bearerOf(authorization), address }),
          failed: (error, path) => failed(event, error, path),
          answered({ method, path, status, error }) {
            answered({ method, path, status });
            const seconds = error && retryAfterOf(understand(error));
            return {
              'x-request-id': requestId,
              ...(isBusy(status) && { 'retry-after': String(seconds ?? RETRY_AFTER_SECONDS) }),
            };
          },
        };
      },
    }),
  });
}

/** An error outside a tRPC procedure, in the same body as one inside. */
export function problem(c: HonoContext, error: Pick<TallyError, 'code' | 'message'> & { details?: unknown }): Response {
  const status = ERRORS[error.code].status;
  const data = {
    code: error.code,
    httpStatus: status,
    ...(error.details === undefined ? {} : { details: error.details }),
  };
  const seconds = retryAfterOf(error);
  if (seconds !== undefined) c.header('retry-after', String(seconds));
  return c.json({ error: { message: error.message, code: -32_600, data } }, status);
}

/** Returns the key and the client's address of a request. */
export function credentialsOf(c: HonoContext): Credentials {
  // Requests that a test or a route of ours makes come over no connection.
  const { incoming } = (c.env ?? {}) as { incoming?: IncomingMessage };
  return { secret: bearerOf(c.req.header('authorization')), address: incoming?.socket.remoteAddress ?? '' };
}

const bearerOf = (authorization: string | undefined) => /^Bearer (\S+)$/i.exec(authorization ?? '')?.[1];

/** tRPC refuses what does not say its type; who sends nothing has nothing to say. */
function typed(request: Request): Request {
  const { url, method, headers, signal } = request;
  const says = ['content-type', 'transfer-encoding'].some((name) => headers.has(name));
  if (method !== 'POST' || says || Number(headers.get('content-length') ?? 0) > 0) return request;
  return new Request(url, { method, headers: [...headers, ['content-type', 'application/json']], signal });
}

const isBusy = (status: number) => status === 429 || status === 503;

/** The seconds to wait that an error names. */
function retryAfterOf({ details }: { details?: unknown }): number | undefined {
  const seconds = (details as { retryAfter?: unknown } | undefined)?.retryAfter;
  return typeof seconds === 'number' ? seconds : undefined;
}

const tooLarge = (limit: number) => ({
  code: 'BODY_TOO_LARGE' as const,
  message: `The body is larger than ${limit} bytes.`,
  details: { maxBytes: limit },
});

/** Listens; the returned function stops intake and resolves when the requests under way are answered. */
export async function listen(app: App, address: { host: string; port: number }): Promise<() => Promise<void>> {
  const server = await new Promise<Server>((resolve, reject) => {
    const web = getRequestListener(app.fetch);
    const created = createServer((request, response) => void (app.direct(request, response) || web(request, response)));
    created.listen(address.port, address.host, () => resolve(created));
    created.once('error', reject);
  });
  server.requestTimeout = 60_000;
  // Longer than clients and load balancers keep idle connections: whoever closes first must not be us.
  server.keepAliveTimeout = 75_000;
  return async () => {
    app.stopAccepting();
    const closed = new Promise<void>((resolve) => server.close(() => resolve()));
    // Again and again: a connection whose request ends now would stay open for as long as it may be idle.
    const closing = setInterval(() => server.closeIdleConnections(), CLOSE_IDLE_MS);
    await closed;
    clearInterval(closing);
  };
}
