import type { IncomingMessage, ServerResponse } from 'node:http';
import { isHttps, isSameOrigin, SESSION_COOKIE, sessionOf } from '@tally/service';
import { z } from 'zod';
import { BodyTooLarge, readWithin } from './body.ts';
import { answerProblem, type Exchange } from './forward.ts';
import { type Problem, problemOf, unavailable } from './problem.ts';
import type { Headers, Upstream } from './upstream.ts';

/** Signs users in and out. The services decide what a session may do: they read its cookie. */
export type Sessions = {
  /** Answers `POST /session` (exchanges an API key for a cookie) and `DELETE /session` (ends it). */
  answer(exchange: Exchange): Promise<void>;
  /** Returns true if a request presents a key or a session with read access. */
  mayRead(exchange: Exchange): Promise<boolean>;
};

const MAX_BODY_BYTES = 4 * 1024;
const MAX_ANSWER_BYTES = 64 * 1024;
const ANSWER_WITHIN_MS = 30_000;
const SERVICE = 'usage-ingest';

const SignIn = z.strictObject({ key: z.string().regex(/^[\x21-\x7e]{1,512}$/) });
const Created = z.object({
  result: z.object({ data: z.looseObject({ secret: z.string().regex(/^[\w-]+$/), expiresAt: z.iso.datetime() }) }),
});

export function createSessions({ upstream, now = Date.now }: { upstream: Upstream; now?: () => number }): Sessions {
  /** Calls a procedure with the request's credentials, or with a key in their place. */
  async function call({ request, requestId }: Exchange, procedure: string, key?: string) {
    const { authorization, cookie: _cookie, ...shown } = upstream.headersFor(request, requestId);
    const headers: Headers = { ...shown, 'content-type': 'application/json' };
    if (key !== undefined) headers.authorization = `Bearer ${key}`;
    else if (authorization !== undefined) headers.authorization = authorization;
    for (const name of ['content-length', 'accept-encoding']) delete headers[name];
    const signal = AbortSignal.timeout(ANSWER_WITHIN_MS);
    const path = `/trpc/${procedure}`;
    const answer = await upstream.send({ service: SERVICE, method: 'POST', path, headers, body: '{}', signal });
    const body: unknown = JSON.parse(await readWithin(answer.body, MAX_ANSWER_BYTES));
    return { ok: answer.statusCode === 200, body };
  }

  async function signIn(exchange: Exchange): Promise<void> {
    const { request, response } = exchange;
    const parsed = SignIn.safeParse(parseJson(await readWithin(request, MAX_BODY_BYTES)));
    if (!parsed.success) return answerProblem(response, problemOf('INVALID_INPUT', 'Send {"key": "<an API key>"}.'));
    const { body } = await call(exchange, 'sessions.create', parsed.data.key);
    const created = Created.safeParse(body);
    if (!created.success) {
      const { error } = body as Partial<Problem>;
      return answerProblem(response, error?.data ? { error } : unavailable(SERVICE));
    }
    const { secret, ...session } = created.data.result.data;
    const seconds = Math.max(1, Math.floor((Date.parse(session.expiresAt) - now()) / 1000));
    end(response, session, cookieOf(request, secret, seconds));
  }

  async function signOut(exchange: Exchange): Promise<void> {
    const secret = sessionOf(exchange.request);
    // Whatever the service answers, this browser drops the session.
    if (secret) await call(exchange, 'sessions.end', secret).catch(() => {});
    end(exchange.response, { ended: true }, cookieOf(exchange.request, '', 0));
  }

  return {
    async answer(exchange) {
      const { request, response } = exchange;
      if (request.method !== 'POST' && request.method !== 'DELETE')
        return answerProblem(response, problemOf('METHOD_NOT_ALLOWED', 'POST signs in, DELETE signs out.'));
      if (!isSameOrigin(request))
        return answerProblem(
          response,
          problemOf('FORBIDDEN', 'Only the console itself signs in; from elsewhere send an API key.'),
        );
      try {
        await (request.method === 'POST' ? signIn(exchange) : signOut(exchange));
      } catch (error) {
        const tooLarge = error instanceof BodyTooLarge;
        answerProblem(response, tooLarge ? problemOf('BODY_TOO_LARGE', error.message) : unavailable(SERVICE));
      }
    },
    async mayRead(exchange) {
      const { ok } = await call(exchange, 'sessions.current', sessionOf(exchange.request)).catch(() => ({ ok: false }));
      return ok;
    },
  };
}

function cookieOf(request: IncomingMessage, secret: string, seconds: number): string {
  const isSecure = isHttps(request);
  return [
    `${isSecure ? SESSION_COOKIE.https : SESSION_COOKIE.http}=${secret}`,
    'Path=/',
    'HttpOnly',
    'SameSite=Strict',
    `Max-Age=${seconds}`,
    ...(isSecure ? ['Secure'] : []),
  ].join('; ');
}

function end(response: ServerResponse, body: unknown, cookie: string): void {
  const text = JSON.stringify(body);
  response.writeHead(200, {
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
