import {
  createTRPCClient,
  httpLink,
  httpSubscriptionLink,
  retryLink,
  splitLink,
  type TRPCClient,
  type TRPCLink,
} from '@trpc/client';
import { EventSource } from 'eventsource';
import type { AnalyticsRouter } from './analytics.ts';
import type { EngineRouter } from './engine.ts';
import type { IngestRouter } from './ingest.ts';

export { messageOf } from './errors.ts';

export type ClientOptions = {
  /** Where the service listens, such as `http://127.0.0.1:4001`. */
  url: string;
  /** An API key; sent as `Authorization: Bearer`. */
  key: string;
  /** Replaces the global fetch, for in-process tests, proxies and timeouts. */
  fetch?: typeof fetch;
};

export type IngestClient = TRPCClient<IngestRouter>;
export type EngineClient = TRPCClient<EngineRouter>;
export type AnalyticsClient = TRPCClient<AnalyticsRouter>;

/** A typed client of usage-ingest. */
export const createIngestClient = (options: ClientOptions): IngestClient =>
  createTRPCClient<IngestRouter>({ links: links(options) });

/**
 * A typed client of metrics-engine. Subscriptions reconnect after a lost connection, and while the engine is not
 * available; `unsubscribe` ends them.
 */
export const createEngineClient = (options: ClientOptions): EngineClient =>
  createTRPCClient<EngineRouter>({
    links: [
      splitLink({ condition: (op) => op.type === 'subscription', true: watching(options), false: links(options) }),
    ],
  });

/** A typed client of analytics-api. */
export const createAnalyticsClient = (options: ClientOptions): AnalyticsClient =>
  createTRPCClient<AnalyticsRouter>({ links: links(options) });

/** Server-sent events by fetch: the EventSource of browsers cannot send headers, and Node 20 has none. */
// biome-ignore lint/suspicious/noExplicitAny: as below.
function watching({ url, key, fetch = globalThis.fetch }: ClientOptions): TRPCLink<any>[] {
  return [
    // An EventSource gives up at any status but 200, such as the 503 of a balancer while the engine restarts.
    retryLink({
      retry: ({ error }) => isUnavailable((error.cause as { code?: number } | undefined)?.code),
      retryDelayMs: (attempts) => Math.min(1_000 * attempts, 10_000),
    }),
    httpSubscriptionLink({
      url: addressOf(url),
      EventSource,
      eventSourceOptions: {
        fetch: (input, init) =>
          fetch(input as URL, { ...init, headers: { ...init.headers, authorization: `Bearer ${key}` } } as RequestInit),
      },
    }),
  ];
}

const isUnavailable = (status = 0) => status === 429 || status >= 500;

const addressOf = (url: string) => `${url.replace(/\/+$/, '')}/trpc`;

// biome-ignore lint/suspicious/noExplicitAny: tRPC's own type for a link of any router.
function links({ url, key, fetch }: ClientOptions): TRPCLink<any>[] {
  return [
    httpLink({
      url: addressOf(url),
      headers: { authorization: `Bearer ${key}` },
      // Filters of a query may be longer than a URL may be.
      methodOverride: 'POST',
      ...(fetch ? { fetch } : {}),
    }),
  ];
}
