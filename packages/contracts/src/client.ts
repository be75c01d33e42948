import { createTRPCClient, httpBatchLink, type TRPCClient, type TRPCLink } from '@trpc/client';
import type { AnalyticsRouter } from './analytics.ts';
import type { EngineRouter } from './engine.ts';
import type { IngestRouter } from './ingest.ts';

export type ClientOptions = {
  /** Where the service listens, such as `http://127.0.0.1:4001`. */
  url: string;
  /** An API key; sent as `Authorization: Bearer`. */
  key: string;
  /** In place of the global fetch: for tests in process, proxies, timeouts. */
  fetch?: typeof fetch;
};

export type IngestClient = TRPCClient<IngestRouter>;
export type EngineClient = TRPCClient<EngineRouter>;
export type AnalyticsClient = TRPCClient<AnalyticsRouter>;

/** A typed client of usage-ingest. */
export const createIngestClient = (options: ClientOptions): IngestClient =>
  createTRPCClient<IngestRouter>({ links: links(options) });

/** A typed client of metrics-engine. */
export const createEngineClient = (options: ClientOptions): EngineClient =>
  createTRPCClient<EngineRouter>({ links: links(options) });

/** A typed client of analytics-api. */
export const createAnalyticsClient = (options: ClientOptions): AnalyticsClient =>
  createTRPCClient<AnalyticsRouter>({ links: links(options) });

// biome-ignore lint/suspicious/noExplicitAny: tRPC's own type for a link of any router.
function links({ url, key, fetch }: ClientOptions): TRPCLink<any>[] {
  return [
    httpBatchLink({
      url: `${url.replace(/\/+$/, '')}/trpc`,
      headers: { authorization: `Bearer ${key}` },
      // Calls of one tick share a request; a URL must stay below what proxies accept.
      maxURLLength: 8000,
      ...(fetch ? { fetch } : {}),
    }),
  ];
}
