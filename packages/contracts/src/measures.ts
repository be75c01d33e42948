/**
 * The measures: quantities that every LLM event has, kept by all dimensions. The names are those of metric types and
 * columns. All lists of measures, in TypeScript and generated SQL, come from here.
 */
export const MEASURES = ['requests', 'failed_requests', 'prompt_tokens', 'completion_tokens', 'cost'] as const;
export type Measure = (typeof MEASURES)[number];

/** The measures that a producer sends. The others follow from the status and the number of calls. */
export const STATED_MEASURES = ['prompt_tokens', 'completion_tokens', 'cost'] as const satisfies readonly Measure[];

/** Metric types that Tally derives itself; an event that sends one is rejected. */
export const RESERVED_METRICS: readonly string[] = ['requests', 'failed_requests', 'total_tokens'];

/** The dimensions of every event, as columns are named. Their order is that of the bits of `folded`. */
export const DIMENSIONS = ['user_id', 'api_key', 'model', 'provider'] as const;

export const isMeasure = (metricType: string): metricType is Measure =>
  (MEASURES as readonly string[]).includes(metricType);
