import { once } from 'node:events';
import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { setTimeout as wait } from 'node:timers/promises';
import { type Access, MAX_ITEMS, TallyError } from '@tally/contracts';
import { type AnyRouter, callTRPCProcedure } from '@trpc/server';
import { fetchRequestHandler } from '@trpc/server/adapters/fetch';
import { Hono, type Context as HonoContext } from 'hono';
import { Counter, Gauge, type Registry } from 'prom-client';
import type { Authenticate, Caller } from './auth.ts';
import { createBodies } from './bodies.ts';
import { createCallerLimits } from './caller-limits.ts';
import { createDirect, DIRECT_HEADERS } from './direct.ts';
import { createEdge, type Endpoint, type Exchange } from './edge.ts';
import type { EdgeEnv } from './env.ts';
import type { Log } from './log.ts';
import { collectProcess, countRequests } from './metrics.ts';
import { type Context, type Needs, understand } from './trpc.ts';

/** One dependency's state: `ok` false makes the service not ready; `notes` say what is worth knowing either way. */
export type Health = { ok: boolean; degraded?: boolean; notes?: string[]; [fact: string]: unknown };

/** What an admitted request of a route comes with. */
export type Admitted = {
  caller: Caller;
  /** The body, after its encoding; empty where none was sent. */
  text(): string;
  /** The body as JSON; INVALID_JSON where it is none. */
  json(): unknown;
  /** Calls a procedure of the service's router as the caller. */
  call(procedure: string, input: unknown): Promise<unknown>;
};

type Answer = Response | Promise<Response>;

/**
 * A path beside tRPC. The edge checks the key, the access, the limits and the body before `answer` is called; what it throws
 * is answered as an error.
 */
export type Route = {
  readonly method: 'GET' | 'POST';
  /** As Hono writes it; also its name in metrics. */
  readonly path: string;
} & (
  | { readonly access: 'open'; answer(c: HonoContext): Answer }
  | {
      readonly access: Access;
      readonly platform?: true;
      /** For clients of other systems, which may send their key as `Authorization: Basic`. */
      readonly source?: true;
      /** Inflated; default: `MAX_BODY_BYTES`. */
      readonly maxBodyBytes?: number;
      /** Array elements and object members of the body; default: `MAX_ITEMS`. */
      readonly maxItems?: number;
      /** Whatever its content type says, the route reads its body. */
      readonly anyType?: true;
      readonly errorBody?: Endpoint['errorBody'];
      answer(c: HonoContext, admitted: Admitted): Answer;
    }
);

export type AppOptions = {
  name: string;
  log: Log;
  router: AnyRouter;
  /** Paths beside tRPC, health and metrics. */
  routes?: readonly Route[];
  authenticate: Authenticate;
  env: EdgeEnv;
  registry: Registry;
  /** Asked by `/readyz`; a service that is stopping is not ready whatever this says. */
  health(): Promise<Health>;
};

export type App = {
  /** Everything that is answered, health and metrics too. */
  readonly routes: readonly Route[];
  /** Composed of the routes; it has no middleware, since the fast path would pass it by. */
  readonly hono: Pick<Hono, 'routes'>;
  /** Aborted when the service begins to stop: what lasts long ends now. */
  readonly stopping: AbortSignal;
  stopAccepting(): void;
  /** Listens; `stop` ends intake and resolves when the requests under way are answered. */
  listen(address: { host: string; port: number }): Promise<{ port: number; stop(): Promise<void> }>;
  /** Sends a request through a listener on loopback, for callers in the same process. */
  request(path: string, init?: RequestInit): Promise<Response>;
};

type Bindings = { context: Context; admitted: Admitted };
type Procedure = { _def: { type: string; meta: Needs } };

const CLOSE_IDLE_MS = 20;
const REQUEST_TIMEOUT_MS = 60_000;
const HEADERS_TIMEOUT_MS = 10_000;
const CHECK_CONNECTIONS_MS = 2_000;
/** Longer than clients and load balancers keep idle connections: whoever closes first must not be us. */
const KEEP_ALIVE_MS = 75_000;
/** After which a reader that takes nothing more of its answer is given up. */
const STALLED_READER_MS = 30_000;
const MAX_DEPTH = 64;
/** One caller may have this part of the room for bodies, and in any case one body of the largest size. */
const SHARES = 4;
const TRPC = '/trpc/';
const UTF8 = new TextDecoder();
const NO_ITEMS = { maxItems: MAX_ITEMS, maxDepth: MAX_DEPTH };

/** The HTTP face that all services share: tRPC, the routes of the service, /livez, /readyz and /metrics, behind one edge. */
export function createApp(options: AppOptions): App {
  const { log, registry, router, env } = options;
  const stopping = new AbortController();
  let leaving = false;
  collectProcess(registry);
  const dropped = new Counter({
    name: 'tally_http_connections_dropped_total',
    help: 'Connections beyond MAX_CONNECTIONS, closed without an answer.',
    registers: [registry],
  });

  const routes: readonly Route[] = [
    { method: 'GET', path: '/livez', access: 'open', answer: (c) => c.json({ ok: true }) },
    {
      method: 'GET',
      path: '/readyz',
      access: 'open',
      async answer(c) {
        const health = await options
          .health()
          .catch((error: unknown): Health => ({ ok: false, notes: [String(error)] }));
        const ok = !leaving && health.ok;
        return c.json({ ...health, ok, service: options.name, stopping: leaving }, ok ? 200 : 503);
      },
    },
    {
      method: 'GET',
      path: '/metrics',
      access: 'open',
      answer: async (c) => c.body(await registry.metrics(), 200, { 'content-type': registry.contentType }),
    },
    ...(options.routes ?? []),
  ];

  const largest = Math.max(
    env.MAX_BODY_BYTES,
    ...routes.map((route) => ('maxBodyBytes' in route && route.maxBodyBytes) || 0),
  );
  const total = Math.max(env.MAX_HELD_BODY_BYTES, largest);
  const bodies = createBodies({
    total,
    perCaller: Math.max(total / SHARES, largest),
    progressMs: env.BODY_PROGRESS_MS,
  });

  new Gauge({
    name: 'tally_http_body_bytes',
    help: 'Bytes of request bodies held now, inflated.',
    registers: [registry],
    collect() {
      this.set(bodies.held());
    },
  });

  const hono = new Hono<{ Bindings: Bindings }>();
  hono.all(`${TRPC}*`, (c) =>
    fetchRequestHandler({
      endpoint: '/trpc',
      req: c.req.raw,
      router,
      // A question may be longer than a URL.
      allowMethodOverride: true,
      maxBatchSize: env.MAX_BATCH_CALLS,
      createContext: () => c.env.context,
      responseMeta({ errors }) {
        const seconds = errors.map((error) => retryAfterOf(understand(error))).filter((value) => value !== undefined);
        return seconds.length > 0 ? { headers: { 'retry-after': String(Math.max(...seconds)) } } : {};
      },
      onError: ({ error, path }) => edge.failed(c.env.context.event, error, path),
    }),
  );
  for (const route of routes) {
    hono.on(route.method, route.path, (c) => {
      const plain = c as unknown as HonoContext;
      return route.access === 'open' ? route.answer(plain) : route.answer(plain, c.env.admitted);
    });
  }
  // Errors of routes go to the edge, which answers them.
  hono.onError((error) => Promise.reject(error));

  const direct = createDirect(router);
  const procedures = new Map(
    Object.entries(router._def.procedures as Record<string, Procedure>).map(([name, { _def }]) => [
      name,
      procedureOf(name, _def),
    ]),
  );
  const byRoute = new Map(routes.map((route) => [`${route.method} ${route.path}`, routeOf(route)]));

  function procedureOf(name: string, { type, meta }: Procedure['_def']): Endpoint {
    const { access, platform, maxItems = MAX_ITEMS } = meta;
    const isSubscription = type === 'subscription';
    return {
      label: name,
      access,
      ...(platform && { platform }),
      basic: false,
      calls: 1,
      // Subscriptions last, and have bounds of their own.
      places: isSubscription ? 0 : 1,
      maxBodyBytes: env.MAX_BODY_BYTES,
      json: { maxItems, maxDepth: MAX_DEPTH },
      anyType: false,
      async answer(exchange, caller, body) {
        const plain = direct.read(name, { ...exchange, headers: exchange.request.headers });
        if (!plain) return viaHono(exchange, caller, body);
        const { status, text, error } = await direct.answer(plain, body, contextOf(exchange, caller!));
        if (error) edge.failed(exchange.event, error, name);
        const seconds = error && retryAfterOf(understand(error));
        exchange.head(status, {
          ...DIRECT_HEADERS,
          'content-length': String(Buffer.byteLength(text)),
          ...(seconds !== undefined && { 'retry-after': String(seconds) }),
        });
        exchange.response.end(text);
      },
    };
  }

  function routeOf(route: Route): Endpoint {
    const own = route.access === 'open' ? undefined : route;
    const maxItems = own?.maxItems ?? MAX_ITEMS;
    return {
      label: route.path,
      access: route.access,
      ...(own?.platform && { platform: own.platform }),
      basic: own?.source ?? false,
      calls: 1,
      places: 1,
      maxBodyBytes: route.method === 'GET' ? 0 : (own?.maxBodyBytes ?? env.MAX_BODY_BYTES),
      json: { maxItems, maxDepth: MAX_DEPTH },
      anyType: own?.anyType ?? route.method === 'GET',
      ...(own?.errorBody && { errorBody: own.errorBody }),
      answer: viaHono,
    };
  }

  /** Calls of several procedures in one request, or of one that is not known: the key is checked, then what it is. */
  function otherCall(path: string): Endpoint {
    const names = decoded(path.slice(TRPC.length)).split(',');
    const known = names.map((name) => procedures.get(name));
    return {
      label: names.length > 1 && known.every((each) => each) ? 'batch' : 'unknown',
      access: 'key',
      basic: false,
      calls: names.length,
      places: names.length,
      maxBodyBytes: env.MAX_BODY_BYTES,
      anyType: false,
      json: { ...NO_ITEMS, maxItems: Math.max(MAX_ITEMS, ...known.map((each) => each?.json?.maxItems ?? 0)) },
      ...(names.length === 1 && { refusal: noProcedure() }),
      ...(names.length > env.MAX_BATCH_CALLS && { refusal: tooManyCalls(names.length, env.MAX_BATCH_CALLS) }),
      answer: viaHono,
    };
  }

  function find({ method, path }: { method: string; path: string }): Endpoint {
    if (path.startsWith(TRPC)) {
      if (method !== 'GET' && method !== 'POST') throw notAllowed(method, ['GET', 'POST']);
      return procedures.get(path.slice(TRPC.length)) ?? otherCall(path);
    }
    const asked = method === 'HEAD' ? 'GET' : method;
    const endpoint = registered(asked, path);
    if (endpoint) return endpoint;
    const allow = ['GET', 'POST'].filter((each) => registered(each, path));
    if (allow.length > 0) throw notAllowed(method, allow.includes('GET') ? [...allow, 'HEAD'] : allow);
    throw new TallyError('NOT_FOUND', 'There is nothing at this path.');
  }

  function registered(method: string, path: string): Endpoint | undefined {
    const [[match]] = hono.router.match(method, path);
    const route = match?.[0][1];
    return route && byRoute.get(`${route.method} ${route.path}`);
  }

  const contextOf = ({ event }: Exchange, caller: Caller): Context => ({ event, caller, stopping: stopping.signal });

  async function viaHono(exchange: Exchange, caller: Caller | undefined, body: Buffer): Promise<void> {
    const { request, response, method, event } = exchange;
    const left = new AbortController();
    response.once('close', () => left.abort());
    const web = new Request(`http://localhost${request.url}`, {
      method,
      headers: headersOf(request, body),
      signal: left.signal,
      ...(method === 'POST' && { body }),
    });
    const context = { event, stopping: stopping.signal, ...(caller && { caller }) } as Context;
    const answer = await hono.fetch(web, { context, admitted: { ...admittedOf(context, body) } });
    exchange.head(answer.status, Object.fromEntries(answer.headers));
    if (!answer.body || method === 'HEAD') {
      response.end();
      return;
    }
    response.flushHeaders();
    response.setTimeout(STALLED_READER_MS, () => {
      if (response.writableLength > 0) response.destroy();
    });
    await pipeline(Readable.fromWeb(answer.body as Parameters<typeof Readable.fromWeb>[0]), response);
  }

  function admittedOf(context: Context, body: Buffer): Admitted {
    return {
      caller: context.caller,
      text: () => UTF8.decode(body),
      json() {
        try {
          return JSON.parse(UTF8.decode(body));
        } catch (cause) {
          throw new TallyError('INVALID_JSON', 'The request is not readable as JSON.', { cause });
        }
      },
      call: (path, input) =>
        callTRPCProcedure({
          router,
          path,
          type: (router._def.procedures as Record<string, Procedure>)[path]!._def.type as 'query' | 'mutation',
          ctx: context,
          signal: undefined,
          batchIndex: 0,
          getRawInput: async () => input,
        }),
    };
  }

  const edge = createEdge({
    log,
    authenticate: options.authenticate,
    limits: createCallerLimits({ atOnce: env.MAX_CALLS_AT_ONCE, perMinute: env.MAX_CALLS_PER_MINUTE }),
    bodies,
    count: countRequests(registry),
    find,
  });

  const app: App = {
    routes,
    hono,
    stopping: stopping.signal,
    stopAccepting() {
      leaving = true;
      stopping.abort();
    },
    async listen({ host, port }) {
      const server = createServer({ requireHostHeader: false, connectionsCheckingInterval: CHECK_CONNECTIONS_MS });
      server.on('request', edge.handle);
      // The client asks before it sends its body: the edge answers when it wants it.
      server.on('checkContinue', edge.handle);
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
          leaving = true;
          await wait(env.SHUTDOWN_DELAY_MS);
          app.stopAccepting();
          const closed = new Promise<void>((resolve) => server.close(() => resolve()));
          // Again and again: a connection whose request ends now would stay open for as long as it may be idle.
          const closing = setInterval(() => server.closeIdleConnections(), CLOSE_IDLE_MS);
          await closed;
          clearInterval(closing);
        },
      };
    },
    async request(path, init) {
      inProcess ??= app.listen({ host: '127.0.0.1', port: 0 });
      const { port } = await inProcess;
      const { pathname, search } = new URL(path, 'http://localhost');
      return fetch(`http://127.0.0.1:${port}${pathname}${search}`, init);
    },
  };
  let inProcess: ReturnType<App['listen']> | undefined;
  return app;
}

/** As the client sent them, for a body that is inflated and whole. */
function headersOf({ headersDistinct, method }: IncomingMessage, body: Buffer): Headers {
  const headers = new Headers();
  for (const [name, values] of Object.entries(headersDistinct)) {
    if (OF_THE_TRANSFER.has(name)) continue;
    for (const value of values ?? []) headers.append(name, value);
  }
  // tRPC refuses what does not say its type; a request without a body has nothing to say.
  if (method === 'POST' && body.length === 0) headers.set('content-type', 'application/json');
  return headers;
}

const OF_THE_TRANSFER = new Set([
  'connection',
  'content-length',
  'content-encoding',
  'transfer-encoding',
  'expect',
  'host',
]);

/** The seconds to wait that an error names. */
function retryAfterOf({ details }: { details?: unknown }): number | undefined {
  const seconds = (details as { retryAfter?: unknown } | undefined)?.retryAfter;
  return typeof seconds === 'number' ? seconds : undefined;
}

function decoded(path: string): string {
  try {
    return decodeURIComponent(path);
  } catch {
    return path;
  }
}

const noProcedure = () => new TallyError('NOT_FOUND', 'There is no procedure of this name.');

const tooManyCalls = (calls: number, most: number) =>
  new TallyError('BATCH_TOO_LARGE', `A batch may have at most ${most} calls; this one has ${calls}.`, {
    details: { maxCalls: most },
  });

const notAllowed = (method: string, allow: string[]) =>
  new TallyError('METHOD_NOT_ALLOWED', `${method} is not for this path; ${allow.join(' and ')} are.`, {
    details: { allow },
  });
