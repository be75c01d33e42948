import { z } from 'zod';
import { mutation, query } from './contract.ts';
import { Dimension, MerchantId, record } from './entry.ts';
import { text } from './text.ts';
import { BOTH_ENDS, Day, hasBothEnds, OptionalRange, StoredDay, StoredTime } from './time.ts';

const DayGroup = z.object({
  requests: z.string(),
  totalTokens: z.string(),
  /** Null if the document has only total tokens. */
  promptTokens: z.string().nullable(),
  completionTokens: z.string().nullable(),
  /** USD. */
  cost: z.string(),
});
const Groups = z.record(z.string(), DayGroup);

export const DayState = z.object({
  date: StoredDay,
  /** Null if there is no document yet. */
  status: z.enum(['complete', 'partial']).nullable(),
  cachedAt: StoredTime.nullable(),
  /** True if nothing was counted for the day since its document was made. */
  current: z.boolean(),
  /** True if the day was imported from another system as flat sums. It is never rebuilt. */
  imported: z.boolean(),
});

/**
 * An amount of another system: a decimal string, or a JSON number if that is exact enough. Costs in USD are rounded
 * half up to 9 decimals; all others must be whole.
 */
const Amount = z.union([
  z.number().nonnegative().max(Number.MAX_SAFE_INTEGER),
  z.string().regex(/^\d{1,18}(\.\d{1,30})?([eE][+-]?\d{1,2})?$/, 'Expected a decimal that is not negative'),
]);
export type Amount = z.infer<typeof Amount>;

/**
 * The three shapes of amounts there: prompt and completion tokens, the total only, or all three; `cost` or `totalCost`.
 */
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

/** A name that is stored: in NFC, like names of events. */
const Name = Dimension.normalize('NFC');
/** For models of several providers the name is `model|provider`. */
const Key = text(2 * 256 + 1)
  .normalize('NFC')
  .refine((key) => key.split('|').every((part) => Dimension.safeParse(part).success), 'Expected a printable name');
const Grouping = record(20_000, Key, Amounts).nullish();

/** A row with all dimensions: the usage of one model by one user's key. */
const DocumentRow = Amounts.extend({
  merchantId: MerchantId.nullish(),
  userId: Name.nullish(),
  apiKey: Name.nullish(),
  model: Name.nullish(),
  provider: Name.nullish(),
});
export type DocumentRow = z.infer<typeof DocumentRow>;

/** 10,000 rows with all fields. Checking more would block other callers for over 50 ms. */
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

/** Day snapshots (`daily_usage_cache`). They cover all merchants, so only callers bound to no merchant may use them. */
export const days = {
  /**
   * Rebuilds the snapshots of a range; with `onlyStale`, the missing or outdated ones. Without a range: all closed days
   * that a query may reach. Concurrent calls make no day twice; an interrupted call keeps what is done.
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
  /** Returns the snapshot of a day. Makes it first if it is missing or outdated. */
  get: query({
    summary: 'Returns the snapshot of a day.',
    access: 'admin',
    platform: true,
    input: z.strictObject({ date: Day }),
    output: DayState.extend({ byUser: Groups, byModel: Groups, byProvider: Groups }),
  }),
  /**
   * Imports days of another system. Rows with all dimensions become events with ids made from their dimensions, so a
   * repeat, also after a crash, adds nothing. A large day may come in several calls, with rows of the same dimensions
   * in one call. A document with only flat sums stays a document and answers its own groupings.
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
      /** The merchant of rows without one. */
      merchantId: MerchantId.optional(),
    }),
    output: z.object({
      /** Days that became events, and how many of those were new. */
      counted: z.object({ days: z.number().int(), accepted: z.number().int(), duplicates: z.number().int() }),
      /** Days that stay documents. */
      kept: z.object({ days: z.number().int() }),
      /** At most 100 rejections with reasons. Without `row`, the whole day was rejected. */
      rejected: z.array(RejectedRow),
      /** All rejections, also those that are not listed. */
      rejectedCount: z.number().int(),
    }),
  }),
  /** Lists the days of a range that have usage or a snapshot. */
  status: query({
    summary: 'Lists the days of a range that have usage or a snapshot.',
    access: 'admin',
    platform: true,
    input: z.strictObject({ startDate: Day, endDate: Day }),
    output: z.object({ rows: z.array(DayState), nextCursor: z.null() }),
  }),
} as const;
