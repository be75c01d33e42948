import type { IncomingMessage, ServerResponse } from 'node:http';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGzip } from 'node:zlib';
import { isTallyError, type TallyError } from '@tally/contracts';
import {
  acceptsEncoding,
  assertUtf8,
  type Bodies,
  type CallerLimits,
  credentialsOf,
  dropBody,
  isSending,
  RequestAborted,
} from '@tally/service';
import { jsonlStreamProducer } from '@trpc/server/unstable-core-do-not-import';
import {
  type Answers,
  inputsOfPart,
  mergeAnswers,
  type Part,
  parseInputs,
  retryAfterOf,
  type Split,
  splitBatch,
  statusOf,
  tooManyCalls,
  unknownProcedure,
} from './batch.ts';
import { BodyTooLarge, limited, readWithin } from './body.ts';
import { MAX_ANSWER_BYTES, MAX_CALLS, MAX_DEPTH, MAX_MIXED_AT_ONCE } from './limits.ts';
import { ownerOfPath, ownerOfProcedure, type Service } from './owners.ts';
import { type Problem, problemOf, RETRY_AFTER_SECONDS, unavailable } from './problem.ts';
import { endToEnd, type Headers, type Upstream } from './upstream.ts';

export type Exchange = {
  request: IncomingMessage;
  response: ServerResponse;
  url: URL;
  requestId: string;
};

export type ForwardOptions = {
  upstream: Upstream;
  /** The budget for batches that mix services, each of at most `maxBodyBytes`: they are buffered completely. */
  bodies: Bodies;
  maxBodyBytes: number;
  /** The limits of each caller that sends such batches. */
  limits: CallerLimits;
  /** The largest forwarded body. */
  maxForwardedBytes: number;
  /** Aborted when the server begins to stop: subscriptions end, and clients reconnect elsewhere. */
  stopping: AbortSignal;
};

/** Forwards a request to the service that answers it. Returns false, without reading, if no service does. */
export type Forward = (exchange: Exchange) => Promise<boolean>;

export function createForward(options: ForwardOptions): Forward {
  const { upstream, bodies, maxBodyBytes, limits, maxForwardedBytes, stopping } = options;
  let mixedAtOnce = 0;

  /** Streams a request to one service and its answer back, unchanged. */
  async function pass(exchange: Exchange, service: Service, endless = false): Promise<void> {
    const { request, response, url } = exchange;
    const { headers } = request;
    if (Number(headers['content-length'] ?? 0) > maxForwardedBytes) return refuseBody(response, maxForwardedBytes);
    const hasBody = headers['content-length'] !== undefined || headers['transfer-encoding'] !== undefined;
    const body = hasBody ? limited(maxForwardedBytes) : null;
    let tooLarge = false;
    if (body) {
      // Not `pipeline`: it aborts the request if a service answers before it has read the body.
      request.pipe(body).once('error', (error) => {
        tooLarge = error instanceof BodyTooLarge;
      });
    }
    const gone = goneSignal(response);
    try {
      const answer = await upstream.send({
        service,
        method: request.method!,
        path: url.pathname + url.search,
        headers: upstream.headersFor(request, exchange.requestId),
        body,
        signal: endless ? AbortSignal.any([gone, stopping]) : gone,
        endless,
      });
      const headers = endToEnd(answer.headers);
      if (isSending(request)) {
        request.unpipe();
        response.writeHead(answer.statusCode, { ...headers, connection: 'close' });
        await pipeline(answer.body, response, { end: false });
        return dropBody(request, () => response.end());
      }
      if (isWorthGzip(request, headers)) {
        const { 'content-length': _length, vary = [], ...kept } = headers;
        const varies = [...[vary].flat(), 'accept-encoding'].join(', ');
        response.writeHead(answer.statusCode, { ...kept, 'content-encoding': 'gzip', vary: varies });
        await pipeline(answer.body, createGzip({ level: 1 }), response);
        return;
      }
      response.writeHead(answer.statusCode, headers);
      // Headers of a stream without messages are useful by themselves.
      response.flushHeaders();
      await pipeline(answer.body, response);
    } catch {
      if (gone.aborted || response.headersSent) response.destroy();
      else if (tooLarge) refuseBody(response, maxForwardedBytes);
      else answerProblem(response, unavailable(service));
    }
  }

  /** Sends one service its part of a batch; every failure becomes an answer. */
  async function ask(
    exchange: Exchange,
    part: Part,
    inputs: Record<string, unknown>,
    gone: AbortSignal,
  ): Promise<Answers> {
    const { request, requestId } = exchange;
    const headers = upstream.headersFor(request, requestId);
    for (const name of ['content-length', 'accept-encoding', 'accept', 'trpc-accept']) delete headers[name];
    headers['content-type'] = 'application/json';
    const text = JSON.stringify(inputsOfPart(part, inputs));
    const query = request.method === 'POST' ? '' : `&input=${encodeURIComponent(text)}`;
    try {
      const answer = await upstream.send({
        service: part.service,
        method: request.method!,
        path: `/trpc/${part.names.join(',')}?batch=1${query}`,
        headers,
        body: request.method === 'POST' ? text : null,
        signal: gone,
      });
      const parsed: unknown = JSON.parse(await readWithin(answer.body, MAX_ANSWER_BYTES));
      if (Array.isArray(parsed)) return parsed;
      const { error } = parsed as Partial<Problem>;
      return error?.data ? { error } : unavailable(part.service);
    } catch {
      return unavailable(part.service);
    }
  }

  /** Throws the refusal of a key that no service accepts. */
  async function checkKey({ request, requestId }: Exchange, services: readonly Service[], gone: AbortSignal) {
    const headers = upstream.headersFor(request, requestId);
    for (const name of ['content-length', 'content-type', 'content-encoding', 'accept-encoding']) delete headers[name];
    for (const service of services) {
      // Only usage-ingest has this procedure; the other services refuse it after checking the key.
      const path = '/trpc/sessions.current';
      const problem = await upstream
        .send({ service, method: 'GET', path, headers, body: null, signal: gone })
        .then(async ({ body }) => JSON.parse(await readWithin(body, MAX_ANSWER_BYTES)) as Partial<Problem>)
        .catch(() => unavailable(service));
      const code = problem.error?.data.code;
      if (code === undefined || code === 'NOT_FOUND' || code === 'FORBIDDEN') return;
      if (code !== 'UNAVAILABLE') throw new Refused(problem as Problem);
    }
    throw new Refused(unavailable(services.join(' and ')));
  }

  /** Splits a batch that names procedures of several services, and merges their answers in its order. */
  async function mix(exchange: Exchange, names: string[], split: Split): Promise<void> {
    const { request, response } = exchange;
    if (names.length > MAX_CALLS) throw new Refused(tooManyCalls());
    if (split.parts.length === 0) return answerAll(response, names, split, []);
    const gone = goneSignal(response);
    // Before its body is read, and before it takes a slot.
    if (request.method === 'POST')
      await checkKey(
        exchange,
        split.parts.map(({ service }) => service),
        gone,
      );
    if (mixedAtOnce >= MAX_MIXED_AT_ONCE) throw new Refused(crowded());
    const { secret = '' } = credentialsOf(request, false);
    const leave = limits.enter({ id: secret, role: 'viewer' }, { calls: names.length, places: 1 });
    mixedAtOnce++;
    try {
      const inputs = await inputsOf(exchange, names, secret);
      const asked = split.parts.map((part) => ask(exchange, part, inputs, gone));
      if (request.headers['trpc-accept'] === 'application/jsonl') await stream(exchange, names, asked, gone);
      else answerAll(response, names, split, await Promise.all(asked));
    } finally {
      mixedAtOnce--;
      leave();
    }
  }

  async function inputsOf({ request, url }: Exchange, names: readonly string[], callerId: string) {
    assertUtf8(url.search);
    if (request.method !== 'POST') return parseInputs(url.searchParams.get('input') ?? '');
    const maxItems = Math.max(...names.map((name) => ownerOfProcedure(name)?.maxItems ?? 0));
    const body = await bodies.read(request, { limit: maxBodyBytes, callerId, json: { maxItems, maxDepth: MAX_DEPTH } });
    try {
      return parseInputs(new TextDecoder().decode(body.bytes));
    } finally {
      body.release();
    }
  }

  /** Sends the answers of a mixed batch as they arrive, in the lines that tRPC's streaming client reads. */
  async function stream({ response }: Exchange, names: string[], asked: Promise<Answers>[], gone: AbortSignal) {
    const split = splitBatch(names);
    const data = names.map(async (name, place) => {
      const index = split.parts.findIndex(({ places }) => places.includes(place));
      if (index < 0) return unknownProcedure(name);
      const alone = { parts: [split.parts[index]!], unknown: [] };
      return mergeAnswers(names, alone, [await asked[index]!])[place];
    });
    response.writeHead(200, {
      'content-type': 'application/jsonl',
      'transfer-encoding': 'chunked',
      'cache-control': 'no-store',
      vary: 'trpc-accept',
    });
    const lines = Readable.fromWeb(jsonlStreamProducer({ data }) as Parameters<typeof Readable.fromWeb>[0]);
    await pipeline(lines, response, { signal: gone }).catch(() => response.destroy());
  }

  async function forwardCalls(exchange: Exchange): Promise<void> {
    const { request, response, url } = exchange;
    const path = decoded(url.pathname.slice('/trpc/'.length));
    if (path === undefined) return answerProblem(response, problemOf('NOT_FOUND', 'The path is not readable.'));
    if (url.searchParams.get('batch') !== '1') {
      const owner = ownerOfProcedure(path);
      if (!owner) return answerProblem(response, unknownProcedure(path));
      return pass(exchange, owner.service, owner.kind === 'subscription');
    }
    const names = path.split(',');
    const split = splitBatch(names);
    if (split.parts.length === 1 && split.unknown.length === 0) return pass(exchange, split.parts[0]!.service);
    if (request.method !== 'POST' && request.method !== 'GET')
      return answerProblem(response, problemOf('METHOD_NOT_ALLOWED', 'A batch is sent with GET or POST.'));
    try {
      await mix(exchange, names, split);
    } catch (error) {
      if (error instanceof Refused) answerProblem(response, error.problem);
      else if (isTallyError(error)) answerProblem(response, problemOfError(error));
      else if (error instanceof RequestAborted) response.destroy();
      else throw error;
    }
  }

  return async (exchange) => {
    const { pathname } = exchange.url;
    if (pathname.startsWith('/trpc/')) {
      await forwardCalls(exchange);
      return true;
    }
    const service = ownerOfPath(pathname);
    if (service) await pass(exchange, service);
    return service !== undefined;
  };
}

/** Smaller answers fit into one or two packets. */
const GZIP_FROM_BYTES = 2_048;

/** Returns true for whole JSON answers of some size; those without a length are streams, and stay as they are. */
function isWorthGzip({ method, headers }: IncomingMessage, answer: Headers): boolean {
  return (
    method !== 'HEAD' &&
    Number(answer['content-length'] ?? 0) >= GZIP_FROM_BYTES &&
    String(answer['content-type']).startsWith('application/json') &&
    answer['content-encoding'] === undefined &&
    acceptsEncoding(headers['accept-encoding']?.toString(), 'gzip')
  );
}

/** Thrown if all calls of a batch get one answer. */
class Refused extends Error {
  readonly problem: Problem;

  constructor(problem: Problem) {
    super(problem.error.message);
    this.problem = problem;
  }
}

const problemOfError = ({ code, message, details }: TallyError): Problem => problemOf(code, message, { details });

function answerAll(response: ServerResponse, names: readonly string[], split: Split, parts: readonly Answers[]): void {
  const answers = mergeAnswers(names, split, parts);
  answerJson(response, statusOf(answers), answers, retryAfterOf(answers));
}

/** Answers with an error in the shape that all services use. */
export function answerProblem(response: ServerResponse, problem: Problem): void {
  const { httpStatus } = problem.error.data;
  const seconds = retryAfterOf([problem]) ?? (httpStatus === 503 ? RETRY_AFTER_SECONDS : undefined);
  answerJson(response, httpStatus, problem, seconds);
}

function answerJson(response: ServerResponse, status: number, body: unknown, retryAfter: number | undefined): void {
  const text = JSON.stringify(body);
  const { req: request } = response;
  // A client that has sent everything into buffers would use the connection again, and wait for a body to be read.
  const closes = isSending(request);
  response.writeHead(status, {
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(text),
    'cache-control': 'no-store',
    ...(status === 401 && { 'www-authenticate': 'Bearer' }),
    ...(retryAfter === undefined ? {} : { 'retry-after': String(retryAfter) }),
    ...(closes && { connection: 'close' }),
  });
  if (!closes) {
    response.end(text);
    return;
  }
  request.unpipe();
  response.write(text);
  dropBody(request, () => response.end());
}

function refuseBody(response: ServerResponse, limit: number): void {
  const message = `The body is larger than ${limit} bytes.`;
  answerProblem(response, problemOf('BODY_TOO_LARGE', message, { details: { maxBytes: limit } }));
}

const crowded = (): Problem =>
  problemOf('UNAVAILABLE', 'Too many batches that mix services are under way; send it again.', {
    details: { retryAfter: RETRY_AFTER_SECONDS },
  });

/** Aborted when the client left before its answer was complete. */
function goneSignal(response: ServerResponse): AbortSignal {
  const gone = new AbortController();
  response.once('close', () => {
    if (!response.writableFinished) gone.abort();
  });
  return gone.signal;
}

function decoded(path: string): string | undefined {
  try {
    return decodeURIComponent(path);
  } catch {
    return undefined;
  }
}
