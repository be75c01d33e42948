import type { analytics, ErrorCode, engine, ingest, RouterOf } from '@tally/contracts';
import { MutationCache, notifyManager, QueryCache, QueryClient } from '@tanstack/react-query';
import { createTRPCClient, httpLink, httpSubscriptionLink, splitLink, TRPCClientError } from '@trpc/client';
import { createTRPCOptionsProxy } from '@trpc/tanstack-react-query';

/** Of the six connections of a browser; scripts, a subscription and the state of the services need the others. */
const AT_ONCE = 4;
let underWay = 0;
const waiting = new Set<() => void>();

/** Fetches once fewer than four others are under way: a service that hangs would keep all connections. */
async function fetchInTurn(input: RequestInfo | URL | string, init: RequestInit = {}): Promise<Response> {
  const { signal } = init;
  if (underWay < AT_ONCE) underWay++;
  else
    await new Promise<void>((resolve, reject) => {
      waiting.add(resolve);
      signal?.addEventListener('abort', () => waiting.delete(resolve) && reject(signal.reason));
    });
  try {
    return await fetch(input, init);
  } finally {
    const [next] = waiting;
    if (next) {
      waiting.delete(next);
      next();
    } else underWay--;
  }
}

/** Every procedure of every service, at the one origin. */
export type TallyRouter = RouterOf<typeof ingest & typeof engine & typeof analytics>;

export const client = createTRPCClient<TallyRouter>({
  links: [
    splitLink({
      condition: (operation) => operation.type === 'subscription',
      true: httpSubscriptionLink({ url: '/trpc' }),
      // One request per query: each answer is shown as it arrives. Queries may be longer than a URL may be.
      false: httpLink({ url: '/trpc', methodOverride: 'POST', fetch: fetchInTurn }),
    }),
  ],
});

const FRESH_MS = 20_000;

// By default after a timer, which lets the second click of a double click come before the button is disabled.
notifyManager.setScheduler(queueMicrotask);

export const queryClient = new QueryClient({
  queryCache: new QueryCache({ onError: (error, query) => !isSession(query.queryKey) && checkSession(error) }),
  mutationCache: new MutationCache({ onError: checkSession }),
  defaultOptions: {
    queries: {
      staleTime: FRESH_MS,
      refetchOnWindowFocus: false,
      // Services refuse the same call again; unavailable ones may return.
      retry: (count, error) => count < 2 && (codeOf(error) ?? 'UNAVAILABLE') === 'UNAVAILABLE',
    },
  },
});

/** Where the session ended, the frame of the page asks who we are, and asks for a key. */
function checkSession(error: unknown): void {
  if (codeOf(error) === 'UNAUTHORIZED')
    void queryClient.invalidateQueries({ predicate: ({ queryKey }) => isSession(queryKey) });
}

const isSession = (key: readonly unknown[]) => JSON.stringify(key).startsWith('[["sessions"');

/** Ends the requests of queries that no page shows any more: those of a service that hangs would hold up others. */
function endingUnused<Node extends object>(node: Node): Node {
  return new Proxy(node, {
    get(target, name) {
      const next: object = Reflect.get(target as object, name);
      if (name !== 'queryOptions') return endingUnused(next);
      return (input: unknown, options?: object) =>
        (next as (input: unknown, options: object) => object)(input, { ...options, trpc: { abortOnUnmount: true } });
    },
  });
}

export const api = endingUnused(createTRPCOptionsProxy<TallyRouter>({ client, queryClient }));

type Data = { code?: ErrorCode; action?: string; details?: unknown };

const dataOf = (error: unknown): Data | undefined =>
  error instanceof TRPCClientError ? (error.data as Data | undefined) : undefined;

/** Returns the code of an error; undefined if no answer arrived. */
export const codeOf = (error: unknown): ErrorCode | undefined => dataOf(error)?.code;
export const detailsOf = (error: unknown): Record<string, unknown> =>
  (dataOf(error)?.details as Record<string, unknown> | undefined) ?? {};

/** Returns what to do about an error, if the service reports it. */
export const actionOf = (error: unknown): string | undefined => dataOf(error)?.action;

/** An error of the page itself; its message is for the user. */
export class PageError extends Error {}

/** Returns the message of an error. */
export function messageOf(error: unknown): string {
  if (error instanceof PageError) return error.message;
  if (dataOf(error)) return (error as Error).message;
  return 'Tally does not answer. Check that it runs and that you are online.';
}
