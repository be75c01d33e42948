import { z } from 'zod';
import { mutation, query } from './contract.ts';
import { Dimension, MerchantId, record } from './entry.ts';
import { text } from './text.ts';
import { BOTH_ENDS, Day, hasBothEnds, OptionalRange, StoredDay, StoredTime } from './time.ts';

const DayGroup = z.object({
  requests: z.string(),
  totalTokens: z.string(),
  /** Null in a document that has only the total. */
  promptTokens: z.string().nullable(),
  completionTokens: z.string().nullable(),
  /** USD. */
  cost: z.string(),
});
const Groups = z.record(z.string(), DayGroup);

export const DayState = z.object({
  date: StoredDay,
  /** Null where there is no document yet. */
  status: z.enum(['complete', 'partial']).nullable(),
  cachedAt: StoredTime.nullable(),
  /** Nothing was counted for the day since its document was made. */
  current: z.boolean(),
  /** It came from another system as flat sums: it is never rebuilt. */
  imported: z.boolean(),
});

/**
 * An amount of another system: a decimal string, or a JSON number where that is exact enough. Costs in USD are rounded to
 * 9 decimals, half up; all others are whole.
 */
const Amount = z.union([
  z.number().nonnegative().max(Number.MAX_SAFE_INTEGER),
  z.string().regex(/^\d{1,18}(\.\d{1,30})?([eE][+-]?\d{1,2})?$/, 'Expected a decimal that is not negative'),
]);
export type Amount = z.infer<typeof Amount>;

/** The three shapes that amounts have there: `tokens`, or the total alone, or all three; `cost` or `totalCost`. */
const Amounts = z.object({
  totalRequests: Amount,
  failedRequests: Amount.optional(),
  tokens: z.object({ total: Amount.optional(), prompt: Amount.optional(), completion: Amount.optional() }).optional(),
  totalTokens: Amount.optional(),
  promptTokens: Amount.optional(),
  completionTokens: Amount.optional(),
  cost: Amount.optional(),
  totalCost: Amount.optional(),
});
export type Amounts = z.infer<typeof Amounts>;

/** Of a model that came from several providers: `model|provider`. */
const Key = text(2 * 256 + 1).refine(
  (key) => key.split('|').every((part) => Dimension.safeParse(part).success),
  'Expected a printable name',
);
const Grouping = record(20_000, Key, Amounts).nullish();

/** A row with all dimensions: what one user's key used of one model. */
const DocumentRow = Amounts.extend({
  merchantId: MerchantId.nullish(),
  userId: Dimension.nullish(),
  apiKey: Dimension.nullish(),
  model: Dimension.nullish(),
  provider: Dimension.nullish(),
});
export type DocumentRow = z.infer<typeof DocumentRow>;

/** 10,000 rows with all fields; checking more would hold up other callers for over 50 ms. */
const MAX_ROWS = 10_000;
export const MAX_ROW_ITEMS = 120_000;

/** The rows of a closed day of another system. */
export const DayRows = z.strictObject({ date: Day, rows: z.array(DocumentRow).min(1).max(MAX_ROWS) });
export type DayRows = z.infer<typeof DayRows>;

/** A row that was not counted, and why. Without `row`, nothing of the day was counted. */
export const RejectedRow = z.object({
  date: StoredDay,
  row: z.number().int().optional(),
  code: z.string(),
  message: z.string(),
});
export type RejectedRow = z.infer<typeof RejectedRow>;

/** A closed day of another system's `daily_usage_cache`. */
export const DayDocument = z.object({
  date: Day,
  raw_data: z.array(DocumentRow).max(MAX_ROWS).nullish(),
  aggregated_by_user: Grouping,
  aggregated_by_model: Grouping,
  aggregated_by_provider: Grouping,
  cache_status: z.enum(['complete', 'partial']).default('complete'),
});
export type DayDocument = z.infer<typeof DayDocument>;

/** The day documents, `daily_usage_cache`: of all merchants, so for callers that are bound to none. */
export const days = {
  /**
   * Rebuilds the documents of a range; with `onlyStale` those that are missing or no longer current. Without a range: of all
   * closed days that a question may reach. Asked twice at once, no day is made twice; ended half-way, what is done stays.
   */
  rebuild: mutation({
    summary: 'Writes the day snapshots of a range again.',
    access: 'admin',
    platform: true,
    input: OptionalRange.extend({ onlyStale: z.boolean().default(false) })
      .refine(hasBothEnds, BOTH_ENDS)
      .prefault({}),
    output: z.object({ rebuilt: z.number().int(), complete: z.boolean(), durationMs: z.number() }),
  }),
  /** A day's document; one that is missing or no longer current is made first. */
  get: query({
    summary: 'Returns the snapshot of a day.',
    access: 'admin',
    platform: true,
    input: z.strictObject({ date: Day }),
    output: DayState.extend({ byUser: Groups, byModel: Groups, byProvider: Groups }),
  }),
  /**
   * Imports days of another system. Rows with all dimensions become entries whose ids come from their dimensions, so
   * doing it again, also after a crash half-way, adds nothing. A day of more rows than a call takes may come in several
   * calls, with rows of the same dimensions in one. A document with only flat sums stays a document: it answers its own
   * groupings.
   */
  import: mutation({
    summary: 'Imports day snapshots of another system.',
    maxItems: MAX_ROW_ITEMS,
    access: 'admin',
    platform: true,
    input: z.strictObject({
      documents: z
        .array(DayDocument)
        .min(1)
        .max(366)
        .refine((documents) => new Set(documents.map(({ date }) => date)).size === documents.length, {
          error: 'Send each day once',
        }),
      /** The merchant of rows that name none. */
      merchantId: MerchantId.optional(),
    }),
    output: z.object({
      /** Days that became entries, and what of those was new. */
      counted: z.object({ days: z.number().int(), accepted: z.number().int(), duplicates: z.number().int() }),
      /** Days that stay documents. */
      kept: z.object({ days: z.number().int() }),
      /** What was not taken in, and why; at most 100. Of a day without `row` nothing was. */
      rejected: z.array(RejectedRow),
    }),
  }),
  /** The days of a range that have usage or a document. */
  status: query({
    summary: 'Lists the days of a range that have usage or a snapshot.',
    access: 'admin',
    platform: true,
    input: z.strictObject({ startDate: Day, endDate: Day }),
    output: z.object({ rows: z.array(DayState), nextCursor: z.null() }),
  }),
} as const;
