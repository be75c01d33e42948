import type { IncomingHttpHeaders } from 'node:http';
import { type AnyRouter, getTRPCErrorFromUnknown, getTRPCErrorShape, TRPCError } from '@trpc/server';
import { getHTTPStatusCode } from '@trpc/server/http';
import { piecesOfReady } from './ready-json.ts';
import { type Context, callDirectly } from './trpc.ts';

/** One query or mutation in JSON; `input` is set if it was in the URL. */
export type PlainCall = { path: string; type: 'query' | 'mutation'; batched: boolean; input?: string };

export type PlainRequest = { method: string; search: string; headers: IncomingHttpHeaders };

/** `pieces`: the JSON of the answer. */
export type DirectAnswer = { status: number; pieces: string[]; error: TRPCError | undefined };

export type Direct = {
  /**
   * Returns the call of a request whose path is the name of a procedure; undefined to leave it to tRPC's fetch adapter.
   */
  read(path: string, request: PlainRequest): PlainCall | undefined;
  answer(call: PlainCall, body: Buffer, context: Context): Promise<DirectAnswer>;
};

/** Decodes UTF-8 like Web requests do: without a byte order mark. */
const UTF8 = new TextDecoder();
const BATCH_OF_ONE = 'batch=1';
export const DIRECT_HEADERS = { vary: 'trpc-accept, accept', 'content-type': 'application/json' } as const;

/**
 * A fast path behind the edge for single queries and mutations in JSON. It answers byte for byte like tRPC's fetch
 * adapter, without Web requests, responses and signals, which cost more than the call itself. It starts after the edge
 * has checked key, limits and body, like Hono's routes; it skips Hono, which has no middleware.
 */
export function createDirect(router: AnyRouter): Direct {
  const config = router._def._config;
  const procedures = router._def.procedures as Record<string, { _def: { type: string } } | undefined>;

  return {
    read(path, { method, search, headers }) {
      const type = procedures[path]?._def.type;
      const isWhole = headers['trpc-accept'] === undefined && !headers.accept?.includes('jsonl');
      if (!isWhole || (type !== 'mutation' && type !== 'query')) return undefined;
      if (method === 'POST') {
        return search === '' || search === BATCH_OF_ONE ? { path, type, batched: search !== '' } : undefined;
      }
      if (method !== 'GET' || type !== 'query') return undefined;
      const given = new URLSearchParams(search);
      const batched = given.get('batch') === '1';
      for (const name of given.keys()) if (name !== 'input' && !(name === 'batch' && batched)) return undefined;
      return { path, type, batched, input: given.get('input') ?? '' };
    },
    async answer({ path, type, batched, input }, body, context) {
      let shape: object;
      let ready: readonly string[] | undefined;
      let error: TRPCError | undefined;
      try {
        const getRawInput = async () => inputOf(input ?? UTF8.decode(body), batched);
        const data = await callDirectly(procedures[path]!, { ctx: context, path, getRawInput });
        shape = { result: { data } };
        ready = piecesOfReady(data);
      } catch (cause) {
        error = getTRPCErrorFromUnknown(cause);
        shape = { error: getTRPCErrorShape({ config, error, path, type, input: undefined, ctx: context }) };
      }
      const status = getHTTPStatusCode(shape as Parameters<typeof getHTTPStatusCode>[0], [error]);
      const pieces = ready === undefined ? [JSON.stringify(shape)] : ['{"result":{"data":', ...ready, '}}'];
      return { status, pieces: batched ? ['[', ...pieces, ']'] : pieces, error };
    },
  };
}

/** Parses the input of a body like tRPC; an empty body is no input. */
function inputOf(body: string, batched: boolean): unknown {
  if (body === '') return undefined;
  let input: unknown;
  try {
    input = JSON.parse(body);
  } catch (cause) {
    throw new TRPCError({ code: 'BAD_REQUEST', message: (cause as Error).message, cause });
  }
  if (!batched) return input;
  if (typeof input !== 'object' || input === null || Array.isArray(input)) {
    throw new TRPCError({
      code: 'BAD_REQUEST',
      message: '"input" needs to be an object when doing a batch call',
    });
  }
  return (input as Record<string, unknown>)['0'];
}
