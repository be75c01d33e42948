import { traceHeaders } from './process/tracing.ts';

/**
 * Returns a `fetch` for typed clients of other services. Every call ends within `timeoutMs`, or with the caller's
 * signal. Avoids the Web streams of the global one, which take longer than a small call itself. Throws for options that
 * such a client does not use.
 */
export function fetchWithin(timeoutMs: number): typeof fetch {
  const call = async (url: string | URL, { method = 'GET', headers, body, signal, ...more }: RequestInit = {}) => {
    const unknown = Object.keys(more).filter((name) => more[name as keyof typeof more] !== undefined);
    if (unknown.length > 0) throw new TypeError(`fetchWithin does not know ${unknown.join(', ')}`);
    if (body !== undefined && body !== null && typeof body !== 'string') throw new TypeError('fetchWithin sends texts');
    // Not `AbortSignal.timeout`: its timer fires, and makes an error, also when the call has long ended.
    const ended = new AbortController();
    const leave = () => ended.abort(signal?.reason);
    const late = () => ended.abort(new DOMException(`no answer within ${timeoutMs} ms`, 'TimeoutError'));
    const timer = setTimeout(late, timeoutMs);
    signal?.addEventListener('abort', leave);
    if (signal?.aborted) leave();
    try {
      // Loaded by the first call: most processes make none.
      const { request } = await import('undici');
      const response = await request(url, {
        method: method as 'GET',
        headers: { ...Object.fromEntries(new Headers(headers)), ...traceHeaders() },
        signal: ended.signal,
        // Without a limit of its own, which is five minutes: jobs of many merchants take longer.
        ...{ headersTimeout: 0, bodyTimeout: 0 },
        ...(body && { body }),
      });
      const { statusCode: status } = response;
      const text = await response.body.text();
      return { status, ok: status >= 200 && status < 300, json: async () => JSON.parse(text) };
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', leave);
    }
  };
  // The only parts of a response that a client of queries and mutations reads.
  return call as unknown as typeof fetch;
}
