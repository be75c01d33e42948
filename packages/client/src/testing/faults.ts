/** The fault of one request: the answer comes late, never, or is lost after the server has done its work. */
export type Fault = 'none' | 'no way there' | 'answer lost' | 'busy' | 'slow' | 'not tally';

export type FaultyFetch = typeof fetch & {
  next: (request: number) => Fault;
  readonly bodies: string[];
};

/** A fetch with prescribed faults; requests that reach the server are real. */
export function faultyFetch(next: (request: number) => Fault = () => 'none'): FaultyFetch {
  const bodies: string[] = [];
  let requests = 0;
  const way = async (input: string | URL | Request, init?: RequestInit): Promise<Response> => {
    const fault = way.next(requests++);
    bodies.push(String(init?.body));
    if (fault === 'no way there') throw new TypeError('fetch failed');
    if (fault === 'busy') return new Response('{}', { status: 503, headers: { 'retry-after': '0' } });
    if (fault === 'not tally') return new Response('<html>sign in</html>', { status: 200 });
    const response = await fetch(input, init);
    if (fault === 'none') return response;
    await response.arrayBuffer();
    if (fault === 'answer lost') throw new TypeError('terminated');
    // Slow: the answer exists, but the client stops waiting for it, or did while the body arrived.
    init?.signal?.throwIfAborted();
    await new Promise((_, reject) => {
      init?.signal?.addEventListener('abort', () => reject(new DOMException('aborted', 'AbortError')), { once: true });
    });
    return response;
  };
  way.next = next;
  way.bodies = bodies;
  return way as FaultyFetch;
}
