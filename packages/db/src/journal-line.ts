import type { Day } from '@tally/contracts';

/**
 * One entry as the journal keeps it, first as JSON in a Redis stream, then as a row of `usage_events`.
 * Amounts are units, as text. What is 0, false or none is left out.
 */
export type JournalLine = {
  merchant_id: string;
  date: Day;
  id: string;
  /** Milliseconds since 1970. */
  time: number;
  user_id?: string;
  api_key?: string;
  model?: string;
  provider?: string;
  failed?: true;
  /** Calls that the entry stands for; default 1. */
  calls?: string;
  requests?: string;
  failed_requests?: string;
  prompt_tokens?: string;
  completion_tokens?: string;
  cost?: string;
  /** Every other metric type. */
  metrics?: Record<string, string>;
  properties?: Record<string, string | number | boolean>;
};
