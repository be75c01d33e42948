import { randomUUID } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { type Access, ERRORS, TallyError } from '@tally/contracts';
import type { Authenticate, Caller, Credentials } from '../callers/auth.ts';
import { credentialsOf } from '../callers/credentials.ts';
import { errorShape, retryAfterOf, understand } from '../errors/errors.ts';
import type { Log } from '../process/log.ts';
import { requestSpan } from '../process/tracing.ts';
import { type Bodies, RequestAborted } from './bodies.ts';
import type { CallerLimits } from './caller-limits.ts';
import { dropBody, isSending } from './drop-body.ts';
import type { JsonLimits } from './json-limits.ts';
import { refusalOf, TRPC_PATH } from './trpc.ts';

/** The edge's view of a procedure or a route, before it lets a request through. */
export type Endpoint = {
  /** The name of a procedure or the pattern of a route; also the label in metrics. */
  readonly label: string;
  /** `key`: any valid key, since access is checked later; `open`: none. */
  readonly access: Access | 'key' | 'open';
  readonly platform?: true;
  /** True if `Authorization: Basic` is accepted. */
  readonly basic: boolean;
  /** The calls it counts as, and the slots of the caller that they take while they run. */
  readonly calls: number;
  readonly places: number;
  readonly maxBodyBytes: number;
  readonly json: JsonLimits;
  /** True if a body need not have the content type of JSON. */
  readonly anyType: boolean;
  /** The content type of bodies that are not text. */
  readonly binaryType?: string;
  /** The error for every caller with a valid key, thrown before the body is read. */
  readonly refusal?: TallyError;
  /** Default: the error of tRPC. */
  readonly errorBody?: ErrorBody;
  /** A header of its answers that has the id of the request, beside `x-request-id`. */
  readonly requestIdHeader?: string;
  answer(exchange: Exchange, caller: Caller | undefined, body: Buffer): Promise<void>;
};

/** Presents an error in the shape of another product: body (JSON or bytes), status if it differs, and extra headers. */
export type ErrorBody = (
  error: TallyError,
  request: IncomingMessage,
) => { status?: number | undefined; type: string; headers?: Record<string, string>; body: object | Uint8Array };

/** One request and its response. */
export type Exchange = {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly method: string;
  readonly path: string;
  /** The query string without its question mark. */
  readonly search: string;
  /** Fields of the request's one log line. */
  readonly event: Record<string, unknown>;
  /** The status of the error that interrupted an answer after its start. */
  brokenBy?: number;
  /**
   * Notes that error, unless the client caused it: a stream closes the response before whoever waits for the stream
   * learns of it.
   */
  broken(error: unknown): void;
  /** Writes the status and the headers (names in lower case), plus those that every answer has. */
  head(status: number, headers: Record<string, string>): void;
};

export type EdgeOptions = {
  log: Log;
  authenticate: Authenticate;
  limits: CallerLimits;
  bodies: Bodies;
  /** Called with every error that a call was answered with. */
  onError(error: unknown): void;
  /** Counts an answered request. */
  count(label: string, status: number, durationMs: number): void;
  /** Finds the endpoint of a request; throws NOT_FOUND or METHOD_NOT_ALLOWED without one. */
  find(request: { method: string; path: string; search: string }): Endpoint;
};

export type Edge = {
  handle(request: IncomingMessage, response: ServerResponse): void;
  /** Requests that are not answered yet. */
  underWay(): number;
  /** Logs an error that a call was answered with. */
  failed(event: Record<string, unknown>, error: unknown, path: string | undefined): void;
};

const UNKNOWN = 'unknown';
const RETRY_AFTER_SECONDS = '1';
/** The status in metrics and logs when the client left before its answer. */
const CLIENT_LEFT = 499;
const MAX_LOGGED = 200;
const REQUEST_ID = /^[\x21-\x7e]{1,64}$/;
const JSON_TYPE = /^application\/json\s*(?:;|$)/i;
/** The interval at which the key of a long answer (a subscription or an export) is checked again. */
const CHECK_AGAIN_MS = 5_000;

/**
 * The edge: every request passes here. In this order: the route; the key, from the headers; access and limits of the
 * caller; the body, within the budget; then the endpoint. No part of a body is kept before its key is checked.
 */
export function createEdge({ log, authenticate, limits, bodies, onError, count, find }: EdgeOptions): Edge {
  let underWay = 0;
  const keyed = new Map<Exchange, Credentials>();
  let checkingAgain: NodeJS.Timeout | undefined;
  let isChecking = false;

  /** Checks the key of `exchange` repeatedly; the returned function stops that. */
  function keepChecking(exchange: Exchange, credentials: Credentials): () => void {
    keyed.set(exchange, credentials);
    checkingAgain ??= setInterval(checkAgain, CHECK_AGAIN_MS).unref();
    return () => void keyed.delete(exchange);
  }

  /** Ends the answers of keys that were revoked or have expired since the answer started. */
  async function checkAgain(): Promise<void> {
    if (keyed.size === 0) {
      clearInterval(checkingAgain);
      checkingAgain = undefined;
    }
    // A slow database may need longer than an interval for all of them.
    if (isChecking) return;
    isChecking = true;
    for (const [exchange, credentials] of [...keyed]) {
      if (!exchange.response.headersSent) continue;
      const error: unknown = await authenticate(credentials).then(
        () => undefined,
        (refusal: unknown) => refusal,
      );
      // A key that cannot be checked now has not ended.
      if (error && understand(error).code === 'UNAUTHORIZED') refuse(exchange, undefined, error);
    }
    isChecking = false;
  }

  function failed(event: Record<string, unknown>, error: unknown, path: string | undefined): void {
    const known = understand(error);
    onError(known.cause ?? error);
    if (path !== undefined) event.procedure = cut(path);
    event.code = known.code;
    if (known.code === 'INTERNAL') log.error({ err: known.cause ?? error, path: event.procedure }, 'unexpected error');
    else if (known.code === 'UNAVAILABLE' && known.cause)
      log.warn({ err: known.cause, path: event.procedure }, 'unavailable');
  }

  async function serve(
    request: IncomingMessage,
    response: ServerResponse,
    span: ReturnType<typeof requestSpan>,
  ): Promise<void> {
    const started = performance.now();
    const { method = '', url = '' } = request;
    const question = url.indexOf('?');
    const path = question < 0 ? url : url.slice(0, question);
    const named = request.headers['x-request-id'];
    const requestId = typeof named === 'string' && REQUEST_ID.test(named) ? named : randomUUID();
    const event: Record<string, unknown> = {};
    const releases: (() => void)[] = [];
    let label = UNKNOWN;
    let endpoint: Endpoint | undefined;
    const exchange: Exchange = {
      request,
      response,
      method,
      path,
      search: question < 0 ? '' : url.slice(question + 1),
      event,
      broken(error) {
        if (error instanceof RequestAborted) return;
        const known = understand(error);
        exchange.brokenBy ??= endpoint?.errorBody?.(known, request)?.status ?? ERRORS[known.code].status;
      },
      head(status, headers) {
        const busy = (status === 429 || status === 503) && headers['retry-after'] === undefined;
        response.writeHead(status, {
          // A key in `x-api-key` or in a cookie would not keep a cache between us from storing the answer.
          'cache-control': 'no-store',
          ...headers,
          ...(busy && { 'retry-after': RETRY_AFTER_SECONDS }),
          'x-request-id': requestId,
          ...(endpoint?.requestIdHeader && { [endpoint.requestIdHeader]: requestId }),
          'x-content-type-options': 'nosniff',
        });
      },
    };

    underWay++;
    response.once('close', () => {
      underWay--;
      for (const release of releases) release();
      const status = response.writableFinished ? response.statusCode : (exchange.brokenBy ?? CLIENT_LEFT);
      const durationMs = Math.round((performance.now() - started) * 100) / 100;
      count(label, status, durationMs);
      span?.end(label, status);
      const line = { requestId, method, path: cut(path), route: label, status, durationMs, ...event };
      if (status >= 500) log.error(line, 'request');
      else log.info(line, 'request');
    });

    try {
      assertHost(request);
      endpoint = find(exchange);
      ({ label } = endpoint);
      let caller: Caller | undefined;
      if (endpoint.access !== 'open') {
        const credentials = credentialsOf(request, endpoint.basic);
        caller = await authenticate(credentials);
        event.caller = caller.id;
        const { access, platform, refusal } = endpoint;
        const own = access === 'key' ? refusal : refusalOf(caller, { access, platform }, nameOf(exchange, label));
        if (own) throw own;
        if (response.closed) return;
        releases.push(limits.enter(caller, endpoint), keepChecking(exchange, credentials));
      }
      assertUtf8(exchange.search);
      const body = await bodyOf(exchange, endpoint, caller?.id ?? '');
      releases.push(body.release);
      if (response.closed) return body.release();
      await endpoint.answer(exchange, caller, body.bytes);
    } catch (error) {
      refuse(exchange, endpoint, error);
    }
  }

  async function bodyOf({ request, response }: Exchange, endpoint: Endpoint, callerId: string) {
    const { json, anyType, binaryType, maxBodyBytes } = endpoint;
    const { headers } = request;
    const has = headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0;
    const type = headers['content-type'];
    if (!anyType && (has || type !== undefined) && request.method === 'POST' && !JSON_TYPE.test(type ?? ''))
      throw new TallyError('UNSUPPORTED_MEDIA_TYPE', 'The body is not of the type application/json.');
    if (has && headers.expect !== undefined) response.writeContinue();
    const isText = binaryType === undefined || mediaTypeOf(type) !== binaryType;
    const limit = request.method === 'POST' || request.method === 'PUT' ? maxBodyBytes : 0;
    return bodies.read(request, { limit, callerId, json: isText ? json : undefined });
  }

  function refuse(exchange: Exchange, endpoint: Endpoint | undefined, error: unknown): void {
    const { request, response, event } = exchange;
    if (error instanceof RequestAborted) return;
    failed(event, error, undefined);
    if (response.headersSent) {
      // Breaks off the transfer, so that a short answer never looks complete.
      exchange.broken(error);
      response.destroy();
      return;
    }
    const known = understand(error);
    const own = endpoint?.errorBody?.(known, request);
    const status = own?.status ?? ERRORS[known.code].status;
    const { type, body } = own ?? {
      type: 'application/json',
      body: { error: errorShape(known, endpoint && nameOf(exchange, endpoint.label)) },
    };
    const text = body instanceof Uint8Array ? body : JSON.stringify(body);
    const { allow, size } = (known.details ?? {}) as { allow?: unknown; size?: unknown };
    const seconds = retryAfterOf(known);
    const left = isSending(request);
    exchange.head(status, {
      ...own?.headers,
      'content-type': type,
      'content-length': String(Buffer.byteLength(text)),
      ...(seconds !== undefined && { 'retry-after': String(seconds) }),
      ...(Array.isArray(allow) && { allow: allow.join(', ') }),
      ...(status === 416 && { 'content-range': `bytes */${size}` }),
      ...(status === 401 && { 'www-authenticate': endpoint?.basic ? 'Bearer, Basic realm="tally"' : 'Bearer' }),
      ...(left && { connection: 'close' }),
    });
    if (!left) {
      response.end(text);
      return;
    }
    response.flushHeaders();
    response.write(text);
    dropBody(request, () => response.end());
  }

  return {
    failed,
    underWay: () => underWay,
    handle(request, response) {
      // A client that goes away is seen by the response's `close`.
      request.on('error', () => {});
      response.on('error', () => {});
      const span = requestSpan(request);
      const work = () => serve(request, response, span);
      (span ? span.run(work) : work()).catch((error: unknown) => {
        log.error({ err: error }, 'a request could not be answered');
        response.destroy();
      });
    },
  };
}

/** The name of an endpoint in errors: a procedure's name, or the path as sent. */
const nameOf = ({ path }: Exchange, label: string) => (path === TRPC_PATH + label ? label : cut(path));

/** A content type without its parameters, in lower case. */
const mediaTypeOf = (type = '') => type.split(';', 1)[0]!.trim().toLowerCase();

/** HTTP/1.1 requires exactly one Host; health checks of old proxies speak HTTP/1.0 without one. */
function assertHost({ rawHeaders, httpVersionMinor }: IncomingMessage): void {
  let hosts = 0;
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const name = rawHeaders[index]!;
    if (name.length === 4 && name.toLowerCase() === 'host') hosts++;
  }
  if (hosts > 1 || (hosts === 0 && httpVersionMinor > 0))
    throw new TallyError('INVALID_INPUT', `A request has one Host header; this one has ${hosts}.`);
}

/** Throws INVALID_INPUT for percent-encoding that is not UTF-8: parsers would replace it by U+FFFD. */
export function assertUtf8(search: string): void {
  if (!search.includes('%')) return;
  try {
    decodeURIComponent(search.replace(/%(?![0-9a-f]{2})/gi, '%25'));
  } catch {
    throw new TallyError('INVALID_INPUT', 'The query parameters are not valid UTF-8.');
  }
}

const cut = (text: string) => (text.length > MAX_LOGGED ? `${text.slice(0, MAX_LOGGED)}…` : text);
