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
  /** Set where Tally had to find the cost: the version of its price list, or NO_PRICE. The cost is then no content. */
  price?: string;
  /** Its source compares the reports of an event itself, so a repeat with other content is no conflict. */
  compared?: true;
};

/** In place of a version of the price list: no price was known, so the line has no cost. */
export const NO_PRICE = '0';

/**
 * One line to append. `origin` says where it came from: `<batch id>:<position>` of an item in a stream, or `direct` or
 * `direct:<unique>` past Redis. Lines of the previous release's streams begin with OLD_ORIGIN.
 */
export type LineToAppend = JournalLine & { origin: string };

/**
 * Begins the origin of lines from streams that the previous release could flush, too. Its flush stored no origin, so a row
 * without one may be such a line itself, flushed but not yet removed: it makes no repeat of it. Any other line cannot
 * have been flushed by the previous release, so for those a row without origin is another one.
 */
export const OLD_ORIGIN = 'old:';
