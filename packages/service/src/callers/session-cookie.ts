import type { IncomingMessage } from 'node:http';

/** The cookie that holds the secret of a browser session. */
export const SESSION_COOKIE = 'tally_session';

const SECRET = /^[\w-]{1,512}$/;

type Request = Pick<IncomingMessage, 'headers' | 'method'>;

/** Returns the secret in the session cookie; undefined without one, or if another site sent the request. */
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
 * Returns true if a request comes from a page of its own origin. Browsers report it in `sec-fetch-site` (for HTTPS and
 * localhost) and `origin`; a mutation must have one of them. The cookie is also `SameSite=Strict`.
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
