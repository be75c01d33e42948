import type { IncomingMessage } from 'node:http';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { TallyError } from '@tally/contracts';
import { type AnyRouter, callTRPCProcedure } from '@trpc/server';
import { fetchRequestHandler } from '@trpc/server/adapters/fetch';
import { Hono, type Context as HonoContext } from 'hono';
import { retryAfterOf, understand } from '../errors/errors.ts';
import type { EdgeEnv } from '../process/env.ts';
import { RequestAborted } from './bodies.ts';
import type { Exchange } from './edge.ts';
import type { Admitted, Route } from './route.ts';
import { type Context, type ServedProcedure, TRPC_PATH } from './trpc.ts';

type Bindings = { context: Context; admitted: Admitted };

export type WebOptions = {
  router: AnyRouter;
  routes: readonly Route[];
  env: EdgeEnv;
  /** Called with errors of single calls; see edge.ts. */
  failed(event: Record<string, unknown>, error: unknown, path: string | undefined): void;
};

export type Web = {
  hono: Pick<Hono, 'routes'>;
  /** Returns the method and route pattern of a request as one text. */
  match(method: string, path: string): string | undefined;
  /** Answers a request that passed the edge. */
  answer(exchange: Exchange, context: Context, body: Buffer): Promise<void>;
};

const UTF8 = new TextDecoder();
/** Headers about the body that no longer hold once it is inflated and complete. */
const OF_THE_TRANSFER = new Set([
  'connection',
  'content-length',
  'content-encoding',
  'transfer-encoding',
  'expect',
  'host',
]);

/** The Hono app: tRPC's fetch adapter and the routes. It is composed only here and has no middleware. */
export function createWeb({ router, routes, env, failed }: WebOptions): Web {
  // Uses the path as the edge read it: Hono would decode it first and might find another route than was checked.
  const hono = new Hono<{ Bindings: Bindings }>({ getPath: ({ url }) => new URL(url).pathname });
  hono.all(`${TRPC_PATH}*`, (c) =>
    fetchRequestHandler({
      endpoint: '/trpc',
      req: c.req.raw,
      router,
      // A query may be longer than a URL.
      allowMethodOverride: true,
      maxBatchSize: env.MAX_BATCH_CALLS,
      createContext: () => c.env.context,
      responseMeta({ errors }) {
        const seconds = errors.map((error) => retryAfterOf(understand(error))).filter((value) => value !== undefined);
        return seconds.length > 0 ? { headers: { 'retry-after': String(Math.max(...seconds)) } } : {};
      },
      onError: ({ error, path }) => failed(c.env.context.event, error, path),
    }),
  );
  for (const route of routes) {
    hono.on(route.method, route.path, (c) => {
      const plain = c as unknown as HonoContext;
      return route.access === 'open' ? route.answer(plain) : route.answer(plain, c.env.admitted);
    });
  }
  // The edge answers errors of routes.
  hono.onError((error) => Promise.reject(error));

  const procedures = router._def.procedures as Record<string, ServedProcedure>;

  function admittedOf(context: Context, body: Buffer): Admitted {
    return {
      caller: context.caller,
      body,
      json() {
        try {
          return JSON.parse(UTF8.decode(body));
        } catch (cause) {
          throw new TallyError('INVALID_JSON', 'The request is not valid JSON.', { cause });
        }
      },
      call: (path, input) =>
        callTRPCProcedure({
          router,
          path,
          type: procedures[path]!._def.type,
          ctx: context,
          signal: undefined,
          batchIndex: 0,
          getRawInput: async () => input,
        }),
    };
  }

  return {
    hono,
    match(method, path) {
      const [[match]] = hono.router.match(method, path);
      const route = match?.[0][1];
      return route && `${route.method} ${route.path}`;
    },
    async answer(exchange, context, body) {
      const { request, response, method, path } = exchange;
      const left = new AbortController();
      response.once('close', () => left.abort());
      const web = new Request(`http://localhost${request.url}`, {
        // Hono would drop the body of its answer to a HEAD without closing its source.
        method: method === 'HEAD' ? 'GET' : method,
        headers: headersOf(request, body),
        signal: left.signal,
        // Routes get the body in `admitted`; a Web request copies it.
        ...(path.startsWith(TRPC_PATH) && method === 'POST' && { body }),
      });
      const answer = await hono.fetch(web, { context, admitted: admittedOf(context, body) });
      if (method === 'HEAD' || response.closed) await answer.body?.cancel();
      exchange.head(answer.status, Object.fromEntries(answer.headers));
      if (!answer.body || method === 'HEAD') {
        response.end();
        return;
      }
      response.flushHeaders();
      response.setTimeout(env.STALLED_READER_MS, () => {
        if (response.writableLength > 0) response.destroy();
      });
      const source = Readable.fromWeb(answer.body as Parameters<typeof Readable.fromWeb>[0]);
      source.once('error', exchange.broken);
      await pipeline(source, response).catch((error: NodeJS.ErrnoException) => {
        if (error.code === 'ERR_STREAM_PREMATURE_CLOSE') throw new RequestAborted('The client left in its answer.');
        throw error;
      });
    },
  };
}

/** Returns the headers as sent, adapted to an inflated and complete body. */
function headersOf({ headersDistinct, method }: IncomingMessage, body: Buffer): Headers {
  const headers = new Headers();
  for (const [name, values] of Object.entries(headersDistinct)) {
    // A range is a part of the answer to a GET only (RFC 9110, 14.2).
    if (OF_THE_TRANSFER.has(name) || (name === 'range' && method !== 'GET')) continue;
    for (const value of values ?? []) headers.append(name, value);
  }
  // tRPC refuses requests without a content type; a request without a body needs none.
  if (method === 'POST' && body.length === 0) headers.set('content-type', 'application/json');
  return headers;
}
