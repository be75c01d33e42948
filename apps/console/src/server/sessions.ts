import type { IncomingMessage, ServerResponse } from 'node:http';
import { z } from 'zod';
import { BodyTooLarge, readWithin } from './body.ts';
import { answerProblem, type Exchange } from './forward.ts';
import { type Problem, problemOf, unavailable } from './problem.ts';
import type { Headers, Upstream } from './upstream.ts';

type Shown = { headers: Headers } | { refused: Problem };

/** Signing in and out, and what the cookie of a session stands for. */
export type Sessions = {
  /**
   * Returns the headers in which a request shows its session to the services, without its cookie; a problem where the
   * cookie came from another site.
   */
  credentialsOf(request: IncomingMessage): Shown;
  /** Answers `POST /session` (exchanges an API key for a cookie) and `DELETE /session` (ends it). */
  answer(exchange: Omit<Exchange, 'credentials'>): Promise<void>;
};

const COOKIE = 'tally_session';
const MAX_BODY_BYTES = 4 * 1024;
const MAX_ANSWER_BYTES = 64 * 1024;
const SERVICE = 'usage-ingest';

const SignIn = z.strictObject({ key: z.string().regex(/^[\x21-\x7e]{1,512}$/) });
const Created = z.object({
  result: z.object({ data: z.looseObject({ secret: z.string().regex(/^[\w-]+$/), expiresAt: z.iso.datetime() }) }),
});

export function createSessions({ upstream, now = Date.now }: { upstream: Upstream; now?: () => number }): Sessions {
  async function call(exchange: Omit<Exchange, 'credentials'>, procedure: string, secret: string) {
    const headers: Headers = {
      'content-type': 'application/json',
      authorization: `Bearer ${secret}`,
      'x-forwarded-for': exchange.request.socket.remoteAddress ?? '',
      'x-request-id': exchange.requestId,
    };
    const signal = AbortSignal.timeout(30_000);
    const path = `/trpc/${procedure}`;
    const answer = await upstream.send({ service: SERVICE, method: 'POST', path, headers, body: '{}', signal });
    return JSON.parse(await readWithin(answer.body, MAX_ANSWER_BYTES)) as unknown;
  }

  async function signIn(exchange: Omit<Exchange, 'credentials'>): Promise<void> {
    const { request, response } = exchange;
    const parsed = SignIn.safeParse(parseJson(await readWithin(request, MAX_BODY_BYTES)));
    if (!parsed.success) return answerProblem(response, problemOf('INVALID_INPUT', 'Send {"key": "<an API key>"}.'));
    const answer = await call(exchange, 'sessions.create', parsed.data.key);
    const created = Created.safeParse(answer);
    if (!created.success) {
      const { error } = answer as Partial<Problem>;
      return answerProblem(response, error?.data ? { error } : unavailable(SERVICE));
    }
    const { secret, ...session } = created.data.result.data;
    const seconds = Math.max(1, Math.floor((Date.parse(session.expiresAt) - now()) / 1000));
    end(response, 200, session, cookieOf(request, secret, seconds));
  }

  async function signOut(exchange: Omit<Exchange, 'credentials'>): Promise<void> {
    const { request, response } = exchange;
    const secret = secretOf(request);
    // Whatever the service answers, this browser forgets the session.
    if (secret) await call(exchange, 'sessions.end', secret).catch(() => {});
    end(response, 200, { ended: true }, cookieOf(request, '', 0));
  }

  return {
    credentialsOf(request): Shown {
      const { authorization, 'x-api-key': apiKey } = request.headers;
      const secret = secretOf(request);
      if (authorization !== undefined || apiKey !== undefined || !secret) return { headers: {} };
      return isSameOrigin(request) ? { headers: { authorization: `Bearer ${secret}` } } : { refused: crossOrigin() };
    },
    async answer(exchange) {
      const { request, response } = exchange;
      if (request.method !== 'POST' && request.method !== 'DELETE')
        return answerProblem(response, problemOf('METHOD_NOT_ALLOWED', 'POST signs in, DELETE signs out.'));
      if (!isSameOrigin(request)) return answerProblem(response, crossOrigin());
      try {
        await (request.method === 'POST' ? signIn(exchange) : signOut(exchange));
      } catch (error) {
        const problem =
          error instanceof BodyTooLarge ? problemOf('BODY_TOO_LARGE', error.message) : unavailable(SERVICE);
        answerProblem(response, problem);
      }
    },
  };
}

/** The session's secret in a request's cookie. */
function secretOf(request: IncomingMessage): string | undefined {
  for (const part of (request.headers.cookie ?? '').split(';')) {
    const [name, value] = part.trim().split('=', 2);
    if (name === COOKIE && value && /^[\w-]{1,512}$/.test(value)) return value;
  }
  return undefined;
}

/**
 * Whether a request comes from our own page. Browsers say so in `sec-fetch-site` (to HTTPS and localhost) and `origin`; what
 * changes something must show one of them. The cookie is `SameSite=Strict` besides.
 */
export function isSameOrigin({ headers, method }: Pick<IncomingMessage, 'headers' | 'method'>): boolean {
  const site = headers['sec-fetch-site'];
  const reads = method === 'GET' || method === 'HEAD';
  if (site !== undefined && site !== 'same-origin' && !(site === 'none' && reads)) return false;
  const { origin, host } = headers;
  if (origin !== undefined && hostOf(origin) !== host?.toLowerCase()) return false;
  return reads || site !== undefined || origin !== undefined;
}

function hostOf(origin: string): string | undefined {
  return URL.canParse(origin) ? new URL(origin).host : undefined;
}

const crossOrigin = () =>
  problemOf('FORBIDDEN', 'Sessions work from the console itself only; from elsewhere send an API key.');

function cookieOf(request: IncomingMessage, secret: string, seconds: number): string {
  const isSecure = request.headers['x-forwarded-proto'] === 'https';
  return [
    `${COOKIE}=${secret}`,
    'Path=/',
    'HttpOnly',
    'SameSite=Strict',
    `Max-Age=${seconds}`,
    ...(isSecure ? ['Secure'] : []),
  ].join('; ');
}

function end(response: ServerResponse, status: number, body: unknown, cookie: string): void {
  const text = JSON.stringify(body);
  response.writeHead(status, {
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(text),
    'cache-control': 'no-store',
    'set-cookie': cookie,
  });
  response.end(text);
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
