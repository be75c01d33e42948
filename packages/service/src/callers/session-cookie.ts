import type { IncomingMessage } from 'node:http';

/**
 * The cookie that holds the secret of a browser session. Over HTTPS its prefix makes browsers refuse one that another
 * host of the domain, or a page without HTTPS, wants to plant (ADR 810).
 */
export const SESSION_COOKIE = { https: '__Host-tally_session', http: 'tally_session' } as const;

const SECRET = /^[\w-]{1,512}$/;

type Request = Pick<IncomingMessage, 'headers' | 'method'>;

/** Returns the secret in the session cookie; undefined without one, or if another site sent the request. */
export function sessionOf(request: Request): string | undefined {
  const { cookie } = request.headers;
  if (cookie === undefined) return undefined;
  const found = new Map<string, string>();
  for (const part of cookie.split(';')) {
    const [name, value = ''] = part.trim().split('=', 2);
    if (!found.has(name!) && SECRET.test(value)) found.set(name!, value);
  }
  const secret = found.get(SESSION_COOKIE.https) ?? (isHttps(request) ? undefined : found.get(SESSION_COOKIE.http));
  return secret !== undefined && isSameOrigin(request) ? secret : undefined;
}

/** Returns true if the browser is known to have used HTTPS: by its page's address, or by what the first proxy says. */
export function isHttps({ headers }: Request): boolean {
  return headers.origin?.startsWith('https://') || /^https\b/i.test(String(headers['x-forwarded-proto']));
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
