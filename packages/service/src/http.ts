import { randomUUID } from 'node:crypto';
import type { Server } from 'node:http';
import { serve } from '@hono/node-server';
import { ERRORS, type TallyError } from '@tally/contracts';
import { type AnyRouter, TRPCError } from '@trpc/server';
import { fetchRequestHandler } from '@trpc/server/adapters/fetch';
import { Hono, type Context as HonoContext } from 'hono';
import { bodyLimit } from 'hono/body-limit';
import type { Registry } from 'prom-client';
import type { Authenticate } from './auth.ts';
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
  registry: Registry;
  /** Asked by `/readyz`; a service that is stopping is not ready whatever this says. */
  health(): Promise<Health>;
};

export type App = Hono & { stopAccepting(): void };

const RETRY_AFTER_SECONDS = '1';

/** The HTTP face that all services share: /trpc, /livez, /readyz, /metrics, limits, one log line per request. */
export function createApp(options: AppOptions): App {
  const { log, registry } = options;
  const app = new Hono();
  const count = countRequests(registry);
  collectProcess(registry);
  let accepting = true;

  app.get('/livez', (c) => c.json({ ok: true }));
  app.get('/readyz', async (c) => {
    const health = await options.health().catch((error: unknown): Health => ({ ok: false, notes: [String(error)] }));
    const ok = accepting && health.ok;
    return c.json({ ...health, ok, service: options.name, stopping: !accepting }, ok ? 200 : 503);
  });
  app.get('/metrics', async (c) => c.body(await registry.metrics(), 200, { 'content-type': registry.contentType }));

  app.use('*', async (c, next) => {
    const started = performance.now();
    const requestId = c.req.header('x-request-id')?.slice(0, 64) ?? randomUUID();
    const event: Record<string, unknown> = {};
    c.set('event' as never, event as never);
    await next();
    c.header('x-request-id', requestId);
    if (c.res.status === 429 || c.res.status === 503)
      c.header('retry-after', c.res.headers.get('retry-after') ?? RETRY_AFTER_SECONDS);
    const durationMs = performance.now() - started;
    count(c.req.path, c.res.status, durationMs);
    const line = {
      requestId,
      method: c.req.method,
      path: c.req.path,
      status: c.res.status,
      durationMs: Math.round(durationMs * 100) / 100,
      ...event,
    };
    if (c.res.status >= 500) log.error(line, 'request');
    else log.info(line, 'request');
  });
  app.use(
    '*',
    bodyLimit({ maxSize: options.maxBodyBytes, onError: (c) => problem(c, tooLarge(options.maxBodyBytes)) }),
  );

  app.all('/trpc/*', (c) => {
    const event = c.get('event' as never) as Record<string, unknown>;
    let caller: ReturnType<Authenticate> | undefined;
    return fetchRequestHandler({
      endpoint: '/trpc',
      req: c.req.raw,
      router: options.router,
      createContext: () => ({
        event,
        caller: () => (caller ??= options.authenticate(c.req.header('authorization'))),
      }),
      responseMeta({ errors }) {
        const seconds = errors.map((error) => retryAfterOf(understand(error))).filter((value) => value !== undefined);
        return seconds.length > 0 ? { headers: { 'retry-after': String(Math.max(...seconds)) } } : {};
      },
      onError({ error, path }) {
        const known = understand(error);
        event.procedure = path;
        event.code = known.code;
        if (known.code === 'INTERNAL') log.error({ err: known.cause ?? error, path }, 'unexpected error');
      },
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

  return Object.assign(app, {
    stopAccepting() {
      accepting = false;
    },
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
    const created = serve({ fetch: app.fetch, hostname: address.host, port: address.port }, () =>
      resolve(created),
    ) as Server;
    created.once('error', reject);
  });
  server.requestTimeout = 60_000;
  // Longer than clients and load balancers keep idle connections: whoever closes first must not be us.
  server.keepAliveTimeout = 75_000;
  return async () => {
    app.stopAccepting();
    const closed = new Promise<void>((resolve) => server.close(() => resolve()));
    server.closeIdleConnections();
    await closed;
  };
}
