import { z } from 'zod';
import { type Endpoint, mutation, query } from './contract.ts';
import { DayRows, MAX_ROW_ITEMS, RejectedRow } from './days.ts';
import { MerchantId } from './entry.ts';
import { LITELLM_GUARDRAIL_PATH, LITELLM_PATHS } from './litellm.ts';
import { text } from './text.ts';
import { StoredTime } from './time.ts';

/** The counts of one source, over all processes since its first event. */
export const SourceState = z.object({
  /** The name of the source, also in metrics. */
  source: z.string(),
  /** All events, accepted or not. */
  received: z.number().int(),
  accepted: z.number().int(),
  duplicates: z.number().int(),
  /** Events that were not counted, and unreadable requests. */
  rejected: z.number().int(),
  /** Events that are not usage. */
  skipped: z.number().int(),
  firstSeenAt: StoredTime,
  lastSeenAt: StoredTime,
});
export type SourceState = z.infer<typeof SourceState>;

/** An event of a source that was not counted, or an unreadable request. */
export const SourceRejection = z.object({
  source: z.string(),
  at: StoredTime,
  /** The merchant of the key; null: none. */
  merchantId: z.string().nullable(),
  /** The id under which the event would be counted; null without one. */
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
  /**
   * Counts the rows of day snapshots for `days.import` of analytics-api. Ids come from dimensions, so a repeat adds
   * nothing. A day with an unreadable row is not counted at all.
   */
  importDays: mutation({
    summary: 'Counts the rows of day snapshots of another system.',
    maxItems: MAX_ROW_ITEMS,
    access: 'internal',
    platform: true,
    input: z.strictObject({
      days: z.array(DayRows).min(1).max(366),
      /** The merchant of rows without one. */
      merchantId: MerchantId.optional(),
    }),
    output: z.object({
      accepted: z.number().int(),
      duplicates: z.number().int(),
      rejected: z.array(RejectedRow),
    }),
  }),
} as const;

const JSON_TYPE = ['application/json'] as const;
const OPENMETER = '/sources/openmeter/api/v1';
const LAGO = '/sources/lago/api/v1';

const endpoint = <const Path extends string>(
  method: Endpoint['method'],
  path: Path,
  access: Endpoint['access'],
  summary: string,
  more: Pick<Endpoint, 'parameters'> & { produces?: readonly string[] } = {},
) => ({ method, path, access, summary, group: 'sources', produces: JSON_TYPE, ...more }) as const;

const METER = { parameters: { meter: 'tokens' } } as const;
const SUBJECT = { parameters: { subject: 'acme' } } as const;
const METRIC = { parameters: { code: 'tokens' } } as const;
const TRACES = { produces: ['application/json', 'application/x-protobuf'] } as const;

/** The paths of all sources. A source may serve no other path. */
export const sourceEndpoints = [
  endpoint('POST', LITELLM_PATHS.logs, 'record', "Takes calls from LiteLLM's generic_api callback."),
  endpoint('POST', LITELLM_PATHS.events, 'record', "Takes events from LiteLLM's openmeter callback."),
  endpoint('POST', LITELLM_GUARDRAIL_PATH, 'record', 'Blocks a call of LiteLLM whose hard budget is used up.'),
  endpoint('POST', '/api/v1/events', 'record', 'Takes CloudEvents: one in its headers, one as JSON, or several.'),
  endpoint('POST', `${OPENMETER}/events`, 'record', "Takes events from OpenMeter's clients."),
  endpoint('GET', `${OPENMETER}/events`, 'read', 'Lists the newest events of a subject as OpenMeter does.'),
  endpoint('GET', '/sources/openmeter/api/v2/events', 'read', 'Lists the newest events in pages as OpenMeter does.'),
  endpoint('GET', `${OPENMETER}/meters`, 'read', 'Lists meters as OpenMeter does.'),
  endpoint('POST', `${OPENMETER}/meters`, 'admin', 'Creates a meter as OpenMeter does.'),
  endpoint('GET', `${OPENMETER}/meters/{meter}`, 'read', 'Returns a meter as OpenMeter does.', METER),
  endpoint('PUT', `${OPENMETER}/meters/{meter}`, 'admin', 'Renames a meter as OpenMeter does.', METER),
  endpoint('DELETE', `${OPENMETER}/meters/{meter}`, 'admin', 'Removes a meter as OpenMeter does.', METER),
  endpoint('GET', `${OPENMETER}/meters/{meter}/query`, 'read', 'Queries a meter as OpenMeter does.', METER),
  endpoint('POST', `${OPENMETER}/meters/{meter}/query`, 'read', 'Queries a meter by lists of values.', METER),
  endpoint(
    'GET',
    `${OPENMETER}/meters/{meter}/group-by/{key}/values`,
    'read',
    'Lists the values that a meter was grouped by in the last 30 days.',
    { parameters: { meter: 'tokens', key: 'model' } },
  ),
  endpoint('GET', `${OPENMETER}/meters/{meter}/subjects`, 'read', 'Lists the subjects of a meter.', METER),
  endpoint('GET', `${OPENMETER}/subjects`, 'read', 'Lists the merchants of the last 30 days as subjects.'),
  endpoint('POST', `${OPENMETER}/subjects`, 'admin', 'Names merchants in the directory.'),
  endpoint('GET', `${OPENMETER}/subjects/{subject}`, 'read', 'Returns a merchant as a subject.', SUBJECT),
  endpoint('DELETE', `${OPENMETER}/subjects/{subject}`, 'admin', 'Takes the name of a merchant away.', SUBJECT),
  endpoint(
    'POST',
    '/v1/traces',
    'record',
    'Takes OTLP traces: spans of model calls are counted, all others are not read.',
    TRACES,
  ),
  endpoint(
    'POST',
    '/sources/langfuse/api/public/otel/v1/traces',
    'record',
    "Takes OTLP traces from Langfuse's clients.",
    TRACES,
  ),
  endpoint('POST', '/v1/billing/meter_events', 'record', "Takes a meter event of Stripe's v1, as a form."),
  endpoint('POST', '/v2/billing/meter_events', 'record', "Takes a meter event of Stripe's v2."),
  endpoint('POST', '/v2/billing/meter_event_session', 'record', 'Returns the key as the token of a stream.'),
  endpoint('POST', '/v2/billing/meter_event_stream', 'record', 'Takes up to 100 meter events.'),
  endpoint('GET', '/v1/billing/meters', 'read', 'Lists meters as Stripe does.'),
  endpoint('POST', '/v1/billing/meters', 'admin', 'Creates a meter as Stripe does.'),
  endpoint('GET', '/v1/billing/meters/{meter}', 'read', 'Returns a meter as Stripe does.', METER),
  endpoint('POST', '/v1/billing/meters/{meter}', 'admin', 'Renames a meter as Stripe does.', METER),
  endpoint('GET', '/v1/billing/meters/{meter}/event_summaries', 'read', 'Sums a meter as Stripe does.', METER),
  endpoint('POST', '/v1/billing/meter_event_adjustments', 'admin', 'Takes a meter event back.'),
  endpoint('POST', '/v2/billing/meter_event_adjustments', 'admin', 'Takes a meter event back.'),
  endpoint('POST', `${LAGO}/events`, 'record', "Takes an event from Lago's clients."),
  endpoint('POST', `${LAGO}/events/batch`, 'record', "Takes up to 100 events from Lago's clients."),
  endpoint('GET', `${LAGO}/events`, 'read', 'Lists the newest events of a subscription as Lago does.'),
  endpoint('GET', `${LAGO}/events/{transaction}`, 'read', 'Returns an event as Lago does.', {
    parameters: { transaction: 't1' },
  }),
  endpoint('GET', `${LAGO}/billable_metrics`, 'read', 'Lists meters as Lago does.'),
  endpoint('POST', `${LAGO}/billable_metrics`, 'admin', 'Creates a meter as Lago does.'),
  endpoint('GET', `${LAGO}/billable_metrics/{code}`, 'read', 'Returns a meter as Lago does.', METRIC),
  endpoint('PUT', `${LAGO}/billable_metrics/{code}`, 'admin', 'Renames a meter as Lago does.', METRIC),
  endpoint('DELETE', `${LAGO}/billable_metrics/{code}`, 'admin', 'Removes a meter as Lago does.', METRIC),
  endpoint('GET', `${LAGO}/customers/{customer}/current_usage`, 'read', 'Sums the meters of a customer this month.', {
    parameters: { customer: 'acme' },
  }),
  endpoint('POST', '/sources/metronome/v1/ingest', 'record', "Takes events from Metronome's clients."),
  endpoint('POST', '/sources/orb/v1/ingest', 'record', "Takes events from Orb's clients."),
  endpoint('POST', '/sources/polar/v1/events/ingest', 'record', "Takes events from Polar's clients."),
] as const satisfies readonly Endpoint[];
