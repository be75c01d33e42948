import type { IncomingMessage, ServerResponse } from 'node:http';
import { TallyError } from '@tally/contracts';
import { type AnyRouter, callTRPCProcedure, getTRPCErrorFromUnknown, getTRPCErrorShape, TRPCError } from '@trpc/server';
import { getHTTPStatusCode } from '@trpc/server/http';
import type { Context } from './trpc.ts';

export type DirectOptions = {
  router: AnyRouter;
  maxBodyBytes: number;
  /** Starts what is known of a request; `answered` writes its log line and gives the headers of its answer. */
  begin(request: { requestId: string | undefined; authorization: string | undefined; address: string }): {
    context: Context;
    failed(error: TRPCError, path: string): void;
    answered(answer: {
      method: string;
      path: string;
      status: number;
      error: TRPCError | undefined;
    }): Record<string, string>;
  };
};

type Plain = { path: string; type: 'query' | 'mutation' };
type Answer = { shape: object; error: TRPCError | undefined };

/** Answers a request and returns true, or leaves it untouched and returns false. */
export type Direct = (request: IncomingMessage, response: ServerResponse) => boolean;

/** Bodies that are held at once, in bodies of the largest size: with more, callers are asked to come back. */
const BODIES_AT_ONCE = 16;
const PLAIN_CALL = /^\/trpc\/([A-Za-z0-9_.]+)(?:\?(.*))?$/;
/** As Web requests read their text, a byte order mark left out. */
const UTF8 = new TextDecoder();
const CROWDED = new TallyError('UNAVAILABLE', 'More is being sent than can be held at once; send it again.');
const BATCH_OF_ONE = 'batch=1';
const JSON_TYPE = /^application\/json\s*(?:;|$)/i;

/**
 * One query or mutation in JSON, as callers send them all day, is answered from Node's own request, to the byte as tRPC's
 * fetch adapter would. Making Web requests, responses and signals costs more than the call itself. All else is left to it.
 */
export function createDirect({ router, maxBodyBytes, begin }: DirectOptions): Direct {
  const config = router._def._config;
  /** Bytes of all bodies that have come and are not yet answered. */
  let held = 0;
  const procedures = router._def.procedures as Record<string, { _def: { type: string } } | undefined>;

  async function answer({ path, type }: Plain, context: Context, input: () => unknown): Promise<Answer> {
    try {
      const call = { router, path, type, ctx: context, signal: undefined, batchIndex: 0 };
      const data: unknown = await callTRPCProcedure({ ...call, getRawInput: async () => input() });
      return { shape: { result: { data } }, error: undefined };
    } catch (cause) {
      return refuse({ path, type }, context, cause);
    }
  }

  function refuse({ path, type }: Plain, ctx: Context, cause: unknown): Answer {
    const error = getTRPCErrorFromUnknown(cause);
    const about = { config, error, path, type, input: undefined, ctx };
    return { shape: { error: getTRPCErrorShape(about) }, error };
  }

  function plainCall({
    method,
    url = '',
    headers,
  }: IncomingMessage): (Plain & { batched: boolean; input?: string }) | undefined {
    const [, path = '', search = ''] = PLAIN_CALL.exec(url) ?? [];
    const type = Object.hasOwn(procedures, path) ? procedures[path]!._def.type : undefined;
    const isJson = JSON_TYPE.test(headers['content-type'] ?? (method === 'GET' ? 'application/json' : ''));
    const isWhole = headers['trpc-accept'] === undefined && !headers.accept?.includes('jsonl');
    if (!isJson || !isWhole || (type !== 'mutation' && type !== 'query')) return undefined;
    if (method === 'POST') {
      const fits = Number(headers['content-length']) <= maxBodyBytes && headers['content-encoding'] === undefined;
      return fits && (search === '' || search === BATCH_OF_ONE) ? { path, type, batched: search !== '' } : undefined;
    }
    const hasBody = headers['content-length'] !== undefined || headers['transfer-encoding'] !== undefined;
    if (method !== 'GET' || type !== 'query' || hasBody) return undefined;
    const given = new URLSearchParams(search);
    const batched = given.get('batch') === '1';
    for (const name of given.keys()) if (name !== 'input' && !(name === 'batch' && batched)) return undefined;
    return { path, type, batched, input: given.get('input') ?? '' };
  }

  return (request, response) => {
    const plain = plainCall(request);
    if (!plain) return false;
    const { path, batched } = plain;
    const { headers } = request;

    const { context, failed, answered } = begin({
      requestId: headers['x-request-id'] as string | undefined,
      authorization: headers.authorization,
      address: request.socket.remoteAddress ?? '',
    });
    const chunks: Buffer[] = [];
    let own = 0;
    let crowded = false;
    const release = () => {
      held -= own;
      own = 0;
    };
    request.on('data', (chunk: Buffer) => {
      if (crowded) return;
      chunks.push(chunk);
      own += chunk.length;
      held += chunk.length;
      crowded = held > BODIES_AT_ONCE * maxBodyBytes;
      if (!crowded) return;
      chunks.length = 0;
      release();
    });
    response.once('close', release);

    const respond = async () => {
      const body = UTF8.decode(chunks.length === 1 ? chunks[0] : Buffer.concat(chunks));
      const { shape, error } = await (crowded
        ? refuse(plain, context, CROWDED)
        : answer(plain, context, () => inputOf(plain.input ?? body, batched)));
      if (error) failed(error, path);
      const status = getHTTPStatusCode(shape as Parameters<typeof getHTTPStatusCode>[0], [error]);
      const text = JSON.stringify(batched ? [shape] : shape);
      response.writeHead(status, {
        vary: 'trpc-accept, accept',
        'content-type': 'application/json',
        'content-length': Buffer.byteLength(text),
        ...answered({ method: request.method!, path: `/trpc/${path}`, status, error }),
      });
      response.end(text);
    };
    request.once('end', () => void respond().catch(() => response.destroy()));
    // A client that goes away in the middle of its body gets no answer, and nothing of it was taken.
    request.on('error', () => {});
    return true;
  };
}

/** The input in a body, as tRPC reads it; an empty body is no input. */
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
