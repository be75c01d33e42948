import type { IncomingMessage } from 'node:http';
import type { Credentials } from './auth.ts';
import { sessionOf } from './session-cookie.ts';

/** The header with which the console presents the service key, so that services trust its forwarded addresses. */
export const FORWARDED_BY = 'x-tally-forwarded-by';

const SECRET = /^[\x21-\x7e]{1,512}$/;
const SCHEME = /^(Bearer|Basic) +([\x21-\x7e]+)$/i;

/**
 * Returns the credentials of a request: the key of `Authorization: Bearer` or `x-api-key`; if `basic` is allowed, also
 * the password of `Authorization: Basic`, or its user name if the password is empty. Without either header, the session
 * cookie of a page of the same origin. `X-Forwarded-For` counts only if the console proves that it wrote it.
 */
export function credentialsOf(request: IncomingMessage, basic: boolean): Credentials {
  const { headers, socket } = request;
  const { authorization, 'x-api-key': apiKey, 'x-forwarded-for': forwardedFor, [FORWARDED_BY]: proof } = headers;
  const isSession = authorization === undefined && apiKey === undefined;
  const secret = isSession ? sessionOf(request) : secretOf(authorization, apiKey, basic);
  return {
    secret: secret !== undefined && SECRET.test(secret) ? secret : undefined,
    address: socket.remoteAddress ?? '',
    ...(typeof proof === 'string' &&
      typeof forwardedFor === 'string' && { forwarded: { address: forwardedFor, proof } }),
  };
}

/** The key in these headers; see `credentialsOf`. */
export function secretOf(authorization: string | undefined, apiKey: string | string[] | undefined, basic: boolean) {
  if (!authorization) return typeof apiKey === 'string' ? apiKey : undefined;
  const [, scheme, value = ''] = SCHEME.exec(authorization) ?? [];
  if (scheme === undefined) return undefined;
  if (scheme.toLowerCase() === 'bearer') return value;
  if (!basic) return undefined;
  const pair = Buffer.from(value, 'base64').toString('utf8');
  const colon = pair.indexOf(':');
  if (colon < 0) return undefined;
  return pair.slice(colon + 1) || pair.slice(0, colon);
}
