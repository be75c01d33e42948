import type { IncomingMessage } from 'node:http';

/** The cookie in which a browser keeps the secret of its session. */
export const SESSION_COOKIE = 'tally_session';

const SECRET = /^[\w-]{1,512}$/;

type Request = Pick<IncomingMessage, 'headers' | 'method'>;

/** Returns the secret in the session cookie of a request; undefined where there is none, or where another site sent it. */
export function sessionOf(request: Request): string | undefined {
  const { cookie } = request.headers;
  if (cookie === undefined) return undefined;
  for (const part of cookie.split(';')) {
    const [name, value = ''] = part.trim().split('=', 2);
    if (name === SESSION_COOKIE && SECRET.test(value)) return isSameOrigin(request) ? value : undefined;
  }
  return undefined;
}

/**
 * Returns whether a request comes from a page of its own origin. Browsers say so in `sec-fetch-site` (to HTTPS and localhost) and
 * `origin`; what changes something must show one of them. The cookie is `SameSite=Strict` besides.
 */
export function isSameOrigin({ headers, method }: Request): boolean {
  const site = headers['sec-fetch-site'];
  const reads = method === 'GET' || method === 'HEAD';
  if (site !== undefined && site !== 'same-origin' && !(site === 'none' && reads)) return false;
  const { origin, host } = headers;
  if (origin !== undefined && hostOf(origin) !== host?.toLowerCase()) return false;
  return reads || site !== undefined || origin !== undefined;
}

const hostOf = (origin: string): string | undefined => (URL.canParse(origin) ? new URL(origin).host : undefined);
