import type { ServerResponse } from 'node:http';
import { HTTP_METHODS, MAX_ITEMS, TallyError } from '@tally/contracts';
import type { AnyRouter } from '@trpc/server';
import { noProcedure, retryAfterOf, understand } from '../errors/errors.ts';
import type { EdgeEnv } from '../process/env.ts';
import { createDirect, DIRECT_HEADERS } from './direct.ts';
import type { Endpoint, Exchange } from './edge.ts';
import type { Route } from './route.ts';
import { type Context, type ServedProcedure, TRPC_PATH } from './trpc.ts';
import type { Web } from './web.ts';

export type EndpointsOptions = {
  router: AnyRouter;
  routes: readonly Route[];
  env: EdgeEnv;
  web: Web;
  stopping: AbortSignal;
  failed(event: Record<string, unknown>, error: unknown, path: string | undefined): void;
};

const MAX_DEPTH = 64;
const MAX_JOINED_BYTES = 64 * 1024;

/** Creates the function that finds the endpoint of a request among the procedures of a router and the routes. */
export function createEndpoints({ router, routes, env, web, stopping, failed }: EndpointsOptions) {
  const direct = createDirect(router);
  const procedures = new Map(
    Object.entries(router._def.procedures as Record<string, ServedProcedure>).map(([name, procedure]) => [
      name,
      procedureOf(name, procedure),
    ]),
  );
  const byRoute = new Map(routes.map((route) => [`${route.method} ${route.path}`, routeOf(route)]));

  // Open endpoints have no caller and need none.
  const contextOf = ({ event, response }: Exchange, caller: Context['caller'] | undefined) =>
    ({ event, caller, stopping, isGone: () => response.destroyed || stopping.aborted }) as Context;

  function procedureOf(name: string, { _def: { type, meta } }: ServedProcedure): Endpoint {
    const { access, platform, maxItems = MAX_ITEMS } = meta;
    return {
      label: name,
      access,
      ...(platform && { platform }),
      basic: false,
      calls: 1,
      // Subscriptions last, and have limits of their own.
      places: type === 'subscription' ? 0 : 1,
      maxBodyBytes: env.MAX_BODY_BYTES,
      json: { maxItems, maxDepth: MAX_DEPTH },
      anyType: false,
      async answer(exchange, caller, body) {
        const { method, search, event, request, response } = exchange;
        const context = contextOf(exchange, caller);
        const plain = direct.read(name, { method, search, headers: request.headers });
        if (!plain) return web.answer(exchange, context, body);
        const { status, pieces, error } = await direct.answer(plain, body, context);
        if (error) failed(event, error, name);
        const seconds = error && retryAfterOf(understand(error));
        const bytes = pieces.reduce((sum, piece) => sum + Buffer.byteLength(piece), 0);
        exchange.head(status, {
          ...DIRECT_HEADERS,
          'content-length': String(bytes),
          ...(seconds !== undefined && { 'retry-after': String(seconds) }),
        });
        send(response, pieces, bytes);
      },
    };
  }

  function routeOf(route: Route): Endpoint {
    const own = route.access === 'open' ? undefined : route;
    return {
      label: route.path,
      access: route.access,
      ...(own?.platform && { platform: own.platform }),
      basic: own?.source ?? false,
      calls: 1,
      places: 1,
      maxBodyBytes: own?.maxBodyBytes ?? env.MAX_BODY_BYTES,
      json: { maxItems: own?.maxItems ?? MAX_ITEMS, maxDepth: MAX_DEPTH },
      anyType: own?.anyType ?? false,
      ...(own?.binaryType && { binaryType: own.binaryType }),
      ...(own?.errorBody && { errorBody: own.errorBody }),
      ...(own?.requestIdHeader && { requestIdHeader: own.requestIdHeader }),
      answer: (exchange, caller, body) => web.answer(exchange, contextOf(exchange, caller), body),
    };
  }

  /** Several procedures in one request, or an unknown one: the key is checked first, then the procedures. */
  function otherCall(path: string): Endpoint {
    const names = decoded(path.slice(TRPC_PATH.length)).split(',');
    const known = names.map((name) => procedures.get(name));
    const refusal =
      names.length === 1
        ? noProcedure(names[0]!)
        : names.length > env.MAX_BATCH_CALLS
          ? tooManyCalls(names.length, env.MAX_BATCH_CALLS)
          : undefined;
    return {
      label: names.length > 1 && known.every((each) => each) ? 'batch' : 'unknown',
      access: 'key',
      basic: false,
      calls: names.length,
      places: names.length,
      maxBodyBytes: env.MAX_BODY_BYTES,
      json: { maxItems: Math.max(MAX_ITEMS, ...known.map((each) => each?.json.maxItems ?? 0)), maxDepth: MAX_DEPTH },
      anyType: false,
      ...(refusal && { refusal }),
      answer: (exchange, caller, body) => web.answer(exchange, contextOf(exchange, caller), body),
    };
  }

  /** `OPTIONS *` asks what the server as a whole accepts (RFC 9110, 9.3.7). */
  const whole: Endpoint = {
    ...{ label: '*', access: 'open', basic: false, calls: 1, places: 1, maxBodyBytes: 0 },
    ...{ json: { maxItems: 0, maxDepth: 0 }, anyType: false },
    async answer({ head, response }) {
      head(204, { allow: [...HTTP_METHODS, 'HEAD', 'OPTIONS'].join(', ') });
      response.end();
    },
  };

  const registered = (method: string, path: string) => byRoute.get(web.match(method, path) ?? '');

  return ({ method, path }: { method: string; path: string }): Endpoint => {
    if (method === 'OPTIONS' && path === '*') return whole;
    if (!path.startsWith('/'))
      throw new TallyError('INVALID_INPUT', 'The target of a request is a path, or an address with http or https.');
    if (path.startsWith(TRPC_PATH)) {
      if (method !== 'GET' && method !== 'POST') throw notAllowed(method, ['GET', 'POST']);
      const procedure = procedures.get(path.slice(TRPC_PATH.length));
      if (procedure) return procedure;
    }
    // The router resolves `..` and the like. A path that changes thereby would be checked as one path and answered as
    // another.
    if (!isResolved(path))
      throw new TallyError('NOT_FOUND', 'There is nothing at this path. Send it without `.` and `..`.');
    if (path.startsWith(TRPC_PATH)) return otherCall(path);
    const endpoint = registered(method === 'HEAD' ? 'GET' : method, path);
    if (endpoint) return endpoint;
    const allow = HTTP_METHODS.filter((each) => registered(each, path));
    if (allow.length > 0) throw notAllowed(method, allow.includes('GET') ? [...allow, 'HEAD'] : allow);
    throw new TallyError('NOT_FOUND', 'There is nothing at this path.');
  };
}

/** Sends a small answer in one write, which is quicker, and a large one without joining its pieces. */
function send(response: ServerResponse, pieces: readonly string[], bytes: number): void {
  if (bytes <= MAX_JOINED_BYTES) return void response.end(pieces.join(''));
  response.cork();
  for (const piece of pieces) response.write(piece);
  response.end();
}

/** Returns true if resolving leaves the path unchanged. */
function isResolved(path: string): boolean {
  const text = `http://localhost${path}`;
  return URL.canParse(text) && new URL(text).pathname === path;
}

function decoded(path: string): string {
  try {
    return decodeURIComponent(path);
  } catch {
    return path;
  }
}

const tooManyCalls = (calls: number, most: number) =>
  new TallyError('BATCH_TOO_LARGE', `A batch may have at most ${most} calls; this one has ${calls}.`, {
    details: { maxCalls: most },
  });

const notAllowed = (method: string, allow: string[]) =>
  new TallyError('METHOD_NOT_ALLOWED', `${method} is not for this path; ${allow.join(' and ')} are.`, {
    details: { allow },
  });
