import { z } from 'zod';
import { type Endpoint, query } from './contract.ts';
import { LITELLM_PATHS } from './litellm.ts';
import { text } from './text.ts';
import { StoredTime } from './time.ts';

/** What one source has sent, over all processes and since it was first seen. */
export const SourceState = z.object({
  /** The name of the source, also in metrics. */
  source: z.string(),
  /** All events, whatever became of them. */
  received: z.number().int(),
  accepted: z.number().int(),
  duplicates: z.number().int(),
  /** Events that were not counted, and requests that could not be read. */
  rejected: z.number().int(),
  /** Events that are no usage. */
  skipped: z.number().int(),
  firstSeenAt: StoredTime,
  lastSeenAt: StoredTime,
});
export type SourceState = z.infer<typeof SourceState>;

/** An event of a source that was not counted, or a request that could not be read. */
export const SourceRejection = z.object({
  source: z.string(),
  at: StoredTime,
  /** The merchant that the key is bound to; null: none. */
  merchantId: z.string().nullable(),
  /** The id of the event as it would be counted; null where it has none. */
  eventId: z.string().nullable(),
  code: z.string(),
  message: z.string(),
});
export type SourceRejection = z.infer<typeof SourceRejection>;

/** The sources that feed usage into Tally. Only for callers that are bound to no merchant. */
export const sources = {
  status: query({
    summary: 'Returns what each source has sent and what became of it.',
    access: 'admin',
    platform: true,
    input: z.strictObject({}).prefault({}),
    output: z.object({ sources: z.array(SourceState) }),
  }),
  /** Tally keeps the newest 100 of each source. */
  rejections: query({
    summary: 'Lists events of sources that were not counted, newest first.',
    access: 'admin',
    platform: true,
    input: z
      .strictObject({ source: text(100).optional(), limit: z.number().int().min(1).max(1000).default(100) })
      .prefault({}),
    output: z.object({ rows: z.array(SourceRejection), nextCursor: z.null() }),
  }),
} as const;

/** The paths of all sources. Those that are not here, no source may serve. */
export const sourceEndpoints = [
  {
    method: 'POST',
    path: LITELLM_PATHS.logs,
    summary: "Takes calls from LiteLLM's generic_api callback.",
    access: 'record',
    group: 'sources',
    produces: ['application/json'],
  },
  {
    method: 'POST',
    path: LITELLM_PATHS.events,
    summary: "Takes events from LiteLLM's openmeter callback.",
    access: 'record',
    group: 'sources',
    produces: ['application/json'],
  },
  {
    method: 'POST',
    path: '/api/v1/events',
    summary: 'Takes CloudEvents: one in its headers, one as JSON, or several.',
    access: 'record',
    group: 'sources',
    produces: ['application/json'],
  },
  {
    method: 'POST',
    path: '/v1/traces',
    summary: 'Takes OTLP traces: spans of model calls are counted, all others are not read.',
    access: 'record',
    group: 'sources',
    produces: ['application/json', 'application/x-protobuf'],
  },
  {
    method: 'POST',
    path: '/sources/langfuse/api/public/otel/v1/traces',
    summary: "Takes OTLP traces from Langfuse's clients.",
    access: 'record',
    group: 'sources',
    produces: ['application/json', 'application/x-protobuf'],
  },
] as const satisfies readonly Endpoint[];
