import type { IncomingMessage, ServerResponse } from 'node:http';
import { TallyError } from '@tally/contracts';
import { type AnyRouter, callTRPCProcedure, getTRPCErrorFromUnknown, getTRPCErrorShape, TRPCError } from '@trpc/server';
import { getHTTPStatusCode } from '@trpc/server/http';
import type { Context } from './trpc.ts';

export type DirectOptions = {
  router: AnyRouter;
  maxBodyBytes: number;
  /** Starts what is known of a request; `answered` writes its log line and gives the headers of its answer. */
  begin(request: { requestId: string | undefined; authorization: string | undefined }): {
    context: Context;
    failed(error: TRPCError, path: string): void;
    answered(answer: { path: string; status: number; error: TRPCError | undefined }): Record<string, string>;
  };
};

type Answer = { shape: object; error: TRPCError | undefined };

/** Answers a request and returns true, or leaves it untouched and returns false. */
export type Direct = (request: IncomingMessage, response: ServerResponse) => boolean;

/** Bodies that are held at once, in bodies of the largest size: with more, callers are asked to come back. */
const BODIES_AT_ONCE = 16;
const PLAIN_CALL = /^\/trpc\/([A-Za-z0-9_.]+)(\?batch=1)?$/;
/** As Web requests read their text, a byte order mark left out. */
const UTF8 = new TextDecoder();
const CROWDED = new TallyError('UNAVAILABLE', 'More is being sent than can be held at once; send it again.');
const JSON_TYPE = /^application\/json\s*(?:;|$)/i;

/**
 * One mutation in JSON, as producers send them all day, is answered from Node's own request, to the byte as tRPC's fetch
 * adapter would. Making Web requests, responses and signals costs more than the call itself. All else is left to it.
 */
export function createDirect({ router, maxBodyBytes, begin }: DirectOptions): Direct {
  const config = router._def._config;
  /** Bytes of all bodies that have come and are not yet answered. */
  let held = 0;
  const procedures = router._def.procedures as Record<string, { _def: { type: string } } | undefined>;

  async function answer(path: string, context: Context, getRawInput: () => Promise<unknown>): Promise<Answer> {
    try {
      const call = { router, path, type: 'mutation' as const, ctx: context, signal: undefined, batchIndex: 0 };
      const data: unknown = await callTRPCProcedure({ ...call, getRawInput });
      return { shape: { result: { data } }, error: undefined };
    } catch (cause) {
      return refuse(path, context, cause);
    }
  }

  function refuse(path: string, ctx: Context, cause: unknown): Answer {
    const error = getTRPCErrorFromUnknown(cause);
    const about = { config, error, path, type: 'mutation' as const, input: undefined, ctx };
    return { shape: { error: getTRPCErrorShape(about) }, error };
  }

  return (request, response) => {
    const { method, url = '', headers } = request;
    const [, path = '', batch] = (method === 'POST' && PLAIN_CALL.exec(url)) || [];
    const isPlain =
      Object.hasOwn(procedures, path) &&
      procedures[path]!._def.type === 'mutation' &&
      JSON_TYPE.test(headers['content-type'] ?? '') &&
      Number(headers['content-length']) <= maxBodyBytes &&
      headers['content-encoding'] === undefined &&
      headers['trpc-accept'] === undefined &&
      !headers.accept?.includes('jsonl');
    if (!isPlain) return false;

    const { context, failed, answered } = begin({
      requestId: headers['x-request-id'] as string | undefined,
      authorization: headers.authorization,
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
        ? refuse(path, context, CROWDED)
        : answer(path, context, async () => inputOf(body, batch !== undefined)));
      if (error) failed(error, path);
      const status = getHTTPStatusCode(shape as Parameters<typeof getHTTPStatusCode>[0], [error]);
      const text = JSON.stringify(batch === undefined ? shape : [shape]);
      response.writeHead(status, {
        vary: 'trpc-accept, accept',
        'content-type': 'application/json',
        'content-length': Buffer.byteLength(text),
        ...answered({ path: `/trpc/${path}`, status, error }),
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
