import type { AnyRouter } from '@trpc/server';
import type { Context as HonoContext } from 'hono';
import { Gauge, type Registry } from 'prom-client';
import type { Authenticate } from '../callers/auth.ts';
import type { EdgeEnv } from '../process/env.ts';
import type { Log } from '../process/log.ts';
import { collectProcess, countRequests } from '../process/metrics.ts';
import { VERSION } from '../process/version.ts';
import type { Readiness } from '../stores/readiness.ts';
import { createBodies } from './bodies.ts';
import { createCallerLimits } from './caller-limits.ts';
import { createEdge } from './edge.ts';
import { createEndpoints } from './endpoints.ts';
import type { Route } from './route.ts';
import { createListen, type Listening } from './server.ts';
import { createWeb, type Web } from './web.ts';

export type AppOptions = {
  name: string;
  log: Log;
  router: AnyRouter;
  /** Paths beside tRPC, health and metrics. */
  routes?: readonly Route[];
  authenticate: Authenticate;
  env: EdgeEnv;
  registry: Registry;
  /** Called by `/readyz`. A stopping service is not ready, whatever this returns. */
  readiness: Readiness;
};

export type App = {
  /** Handles everything beside tRPC, including health and metrics. */
  readonly routes: readonly Route[];
  /** The app of tRPC and the routes. Adds no middleware, since the fast path would bypass it. */
  readonly hono: Web['hono'];
  /** Aborted when the service begins to stop, to end long answers. */
  readonly stopping: AbortSignal;
  stopAccepting(): void;
  listen(address: { host: string; port: number }): Promise<Listening>;
  /** Sends a request through a listener on loopback, for callers in the same process. */
  request(path: string, init?: RequestInit): Promise<Response>;
};

/** The share of the body budget that one caller may have; never less than one body of the largest size. */
const SHARES = 4;
const LOOPBACK = /^(localhost|127(\.\d+){3}|::1)$/;

/**
 * Creates the HTTP server that all services share: tRPC, the routes of the service, /livez, /readyz and /metrics,
 * behind one edge.
 */
export function createApp(options: AppOptions): App {
  const { log, registry, router, env, readiness, authenticate } = options;
  const stopping = new AbortController();
  let leaving = false;
  const leave = () => {
    leaving = true;
  };

  const routes: readonly Route[] = [
    { method: 'GET', path: '/livez', access: 'open', answer: (c) => c.json({ ok: true }) },
    {
      method: 'GET',
      path: '/readyz',
      access: 'open',
      async answer(c) {
        const health = await readiness.health();
        const ok = !leaving && health.ok;
        return c.json({ ...health, ok, service: options.name, version: VERSION, stopping: leaving }, ok ? 200 : 503);
      },
    },
    {
      method: 'GET',
      path: '/metrics',
      // Metrics reveal callers, routes and memory: only loopback and callers with read access see them.
      access: LOOPBACK.test(env.HOST) ? 'open' : 'read',
      answer: async (c: HonoContext) => c.body(await registry.metrics(), 200, { 'content-type': registry.contentType }),
    },
    ...(options.routes ?? []),
  ];

  const largest = Math.max(
    env.MAX_BODY_BYTES,
    ...routes.map((route) => ('maxBodyBytes' in route && route.maxBodyBytes) || 0),
  );
  const total = Math.max(env.MAX_HELD_BODY_BYTES, largest);
  const perCaller = Math.max(total / SHARES, largest);
  const bodies = createBodies({ total, perCaller, progressMs: env.BODY_PROGRESS_MS });
  collectProcess(registry);
  new Gauge({
    name: 'tally_http_body_bytes',
    help: 'Bytes of request bodies held now, inflated.',
    registers: [registry],
    collect() {
      this.set(bodies.held());
    },
  });

  const edge = createEdge({
    log,
    authenticate,
    limits: createCallerLimits({ atOnce: env.MAX_CALLS_AT_ONCE, perMinute: env.MAX_CALLS_PER_MINUTE }),
    bodies,
    count: countRequests(registry),
    onError: readiness.sawError,
    find: (request) => find(request),
  });
  const { failed, handle, underWay } = edge;
  const web = createWeb({ router, routes, env, failed });
  const find = createEndpoints({ router, routes, env, web, stopping: stopping.signal, failed });

  const stopAccepting = () => {
    leave();
    stopping.abort();
  };
  const listen = createListen({ handle, underWay, env, registry, leave, stopAccepting });
  let inProcess: Promise<Listening> | undefined;
  return {
    routes,
    hono: web.hono,
    stopping: stopping.signal,
    stopAccepting,
    listen,
    async request(path, init) {
      inProcess ??= listen({ host: '127.0.0.1', port: 0 });
      const { port } = await inProcess;
      const { pathname, search } = new URL(path, 'http://localhost');
      return fetch(`http://127.0.0.1:${port}${pathname}${search}`, init);
    },
  };
}
