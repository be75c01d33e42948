/**
 * The measures: quantities that every LLM event has, kept by all dimensions. The names are those of metric types and
 * columns. All lists of measures, in TypeScript and generated SQL, come from here.
 */
export const MEASURES = ['requests', 'failed_requests', 'prompt_tokens', 'completion_tokens', 'cost'] as const;
export type Measure = (typeof MEASURES)[number];

/** The measures that a producer sends. The others follow from the status and the number of calls. */
export const STATED_MEASURES = ['prompt_tokens', 'completion_tokens', 'cost'] as const satisfies readonly Measure[];

/**
 * Sums of events that Tally priced, or knew no price for: their number, calls that did not fail, tokens by the class
 * that has a price, and the cost with its re-ratings. The names are those of built-in meters and of columns of
 * `usage_priced`.
 */
export const PRICED_MEASURES = [
  'priced_events',
  'priced_requests',
  'priced_input_tokens',
  'priced_cached_tokens',
  'priced_cache_write_tokens',
  'priced_output_tokens',
  'priced_reasoning_tokens',
  'priced_cost',
] as const;
export type PricedMeasure = (typeof PRICED_MEASURES)[number];

/** The measures of what has a price: the classes of tokens, and calls. */
export const PRICED_PARTS = PRICED_MEASURES.filter(
  (name): name is PricedPart => name !== 'priced_events' && name !== 'priced_cost',
);
export type PricedPart = Exclude<PricedMeasure, 'priced_events' | 'priced_cost'>;

export const isPricedMeasure = (key: string): key is PricedMeasure =>
  (PRICED_MEASURES as readonly string[]).includes(key);

/** Prompts by which long calls are told apart: `usage_priced` has a row for each size between two of them. */
export const CALL_SIZES = [128_000, 199_999, 200_000, 256_000, 271_999, 272_000, 512_000] as const;

/** Metric types that Tally derives itself; an event that sends one is rejected. */
export const RESERVED_METRICS: readonly string[] = ['requests', 'failed_requests', 'total_tokens'];

/** The dimensions of every event, as columns are named. Their order is that of the bits of `folded`. */
export const DIMENSIONS = ['user_id', 'api_key', 'model', 'provider'] as const;

export const isMeasure = (metricType: string): metricType is Measure =>
  (MEASURES as readonly string[]).includes(metricType);
