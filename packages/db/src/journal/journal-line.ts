import type { Day } from '@tally/contracts';

/**
 * One event as the journal stores it, first as JSON in a Redis stream, then as a row of `usage_events`. Amounts are
 * units, as text. Zero, false and missing values are left out.
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
  /** Calls that the event stands for; default 1. */
  calls?: string;
  requests?: string;
  failed_requests?: string;
  prompt_tokens?: string;
  completion_tokens?: string;
  cost?: string;
  /** Every other metric type. */
  metrics?: Record<string, string>;
  properties?: Record<string, string | number | boolean>;
  /**
   * Set if Tally had to find the cost: the version of its price list, or NO_PRICE. The cost is then not part of the
   * content.
   */
  price?: string;
  /** Set if its source compares the reports of an event itself, so that a repeat with other content is no conflict. */
  compared?: true;
};

/** Replaces the price list version: no price was known, so the line has no cost. */
export const NO_PRICE = '0';

/**
 * One line to append. `origin` is where it came from: `<batch id>:<position>` of an item in a stream, or `direct` or
 * `direct:<unique>` without Redis. Lines of the previous release's streams begin with OLD_ORIGIN.
 */
export type LineToAppend = JournalLine & { origin: string };

/**
 * Prefix of the origin of lines from streams that the previous release could flush, too. That release stored no origin,
 * so a row without one may be such a line itself, flushed but not yet removed: it is no proof of a repeat. Any other
 * line was not flushed by the previous release, so a row without origin makes it a repeat.
 */
export const OLD_ORIGIN = 'old:';
