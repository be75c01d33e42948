import type { IncomingMessage } from 'node:http';
import type { Credentials } from './auth.ts';

const SECRET = /^[\x21-\x7e]{1,512}$/;
const SCHEME = /^(Bearer|Basic) +([\x21-\x7e]+)$/i;

/**
 * What a request shows of its caller: the key of `Authorization: Bearer` or `x-api-key`; where `basic` is allowed also the
 * password of `Authorization: Basic`, or its user name where the password is empty. `X-Forwarded-For` is not trusted.
 */
export function credentialsOf({ headers, socket }: IncomingMessage, basic: boolean): Credentials {
  const secret = secretOf(headers.authorization, headers['x-api-key'], basic);
  return {
    secret: secret !== undefined && SECRET.test(secret) ? secret : undefined,
    address: socket.remoteAddress ?? '',
  };
}

function secretOf(authorization: string | undefined, apiKey: string | string[] | undefined, basic: boolean) {
  if (authorization === undefined) return typeof apiKey === 'string' ? apiKey : undefined;
  const [, scheme, value = ''] = SCHEME.exec(authorization) ?? [];
  if (scheme === undefined) return undefined;
  if (scheme.toLowerCase() === 'bearer') return value;
  if (!basic) return undefined;
  const pair = Buffer.from(value, 'base64').toString('utf8');
  const colon = pair.indexOf(':');
  if (colon < 0) return undefined;
  return pair.slice(colon + 1) || pair.slice(0, colon);
}
