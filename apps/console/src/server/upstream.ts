import type { IncomingHttpHeaders, IncomingMessage } from 'node:http';
import type { Readable } from 'node:stream';
import { FORWARDED_BY, type Log, SESSION_COOKIE, sessionOf } from '@tally/service';
import { Agent, type Dispatcher } from 'undici';
import type { Service } from './owners.ts';

export type Headers = Record<string, string | string[]>;

export type UpstreamRequest = {
  service: Service;
  method: string;
  /** Path and query. */
  path: string;
  headers: Headers;
  body: Readable | string | null;
  signal: AbortSignal;
  /** True if the answer may stay silent indefinitely: a subscription. */
  endless?: boolean;
};

/** The services behind this origin. */
export type Upstream = {
  /** Rejects if the service does not answer. */
  send(request: UpstreamRequest): Promise<Dispatcher.ResponseData>;
  /**
   * Returns the headers of a forwarded request: `host` as the client wrote it, so that services can compare it with
   * `origin`; the client's real address; and of its cookies only the session.
   */
  headersFor(request: IncomingMessage, requestId: string): Headers;
  close(): Promise<void>;
};

/** A service that is gone refuses at once; a busy machine takes seconds to accept. */
const CONNECT_TIMEOUT_MS = 10_000;
/** The longest exports, backfills and checks answer within this time. */
const ANSWER_TIMEOUT_MS = 300_000;
/** Shorter than the services keep idle connections (75 s), so that they never close one that is about to be used. */
const KEEP_ALIVE_MS = 30_000;
const MAX_HEADER_BYTES = 16 * 1024;

export type UpstreamOptions = {
  addresses: Readonly<Record<Service, string>>;
  /** Presented to the services, so that they trust our forwarded addresses. */
  serviceKey: string | undefined;
  log: Log;
};

export function createUpstream({ addresses, serviceKey, log }: UpstreamOptions): Upstream {
  const agent = new Agent({
    connect: { timeout: CONNECT_TIMEOUT_MS },
    headersTimeout: ANSWER_TIMEOUT_MS,
    keepAliveTimeout: KEEP_ALIVE_MS,
    maxHeaderSize: MAX_HEADER_BYTES,
    pipelining: 1,
  });
  return {
    async send({ service, method, path, headers, body, signal, endless = false }) {
      const options = {
        origin: addresses[service],
        method: method as Dispatcher.HttpMethod,
        path,
        headers,
        body,
        signal,
      };
      try {
        return await agent.request({ ...options, bodyTimeout: endless ? 0 : ANSWER_TIMEOUT_MS });
      } catch (error) {
        if (!signal.aborted) log.warn({ err: error, service, requestId: headers['x-request-id'] }, 'no answer');
        throw error;
      }
    },
    headersFor(request, requestId) {
      const headers = endToEnd(request.headers);
      for (const name of OURS) delete headers[name];
      headers['x-forwarded-for'] = request.socket.remoteAddress ?? '';
      headers['x-request-id'] = requestId;
      if (serviceKey !== undefined) headers[FORWARDED_BY] = serviceKey;
      const session = sessionOf(request);
      if (session !== undefined) headers.cookie = `${SESSION_COOKIE.https}=${session}`;
      return headers;
    },
    close: () => agent.destroy(),
  };
}

/** About one connection only (RFC 9110, 7.6.1), or set by the console for the next one. */
const HOP_BY_HOP = new Set([
  'connection',
  'expect',
  'keep-alive',
  'proxy-authenticate',
  'proxy-authorization',
  'proxy-connection',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
]);

/** Returns end-to-end headers, without those about the incoming connection. */
export function endToEnd(headers: IncomingHttpHeaders): Headers {
  const named = String(headers.connection ?? '')
    .toLowerCase()
    .split(',')
    .map((name) => name.trim());
  const kept: Headers = {};
  for (const [name, value] of Object.entries(headers)) {
    if (value !== undefined && !HOP_BY_HOP.has(name) && !named.includes(name)) kept[name] = value;
  }
  return kept;
}

/** Headers that only the console may write. */
const OURS = [
  FORWARDED_BY,
  'cookie',
  'forwarded',
  'x-forwarded-for',
  'x-forwarded-host',
  'x-forwarded-proto',
  'x-real-ip',
];
