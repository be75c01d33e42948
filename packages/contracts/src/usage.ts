import { z } from 'zod';
import { mutation, query } from './contract.ts';
import { AnyEntry, Dimension, DimensionValues, EntryId, MAX_BATCH, MerchantId, MetricType, record } from './entry.ts';
import { DecimalText, Quantity } from './quantity.ts';
import { Cursor, storable } from './text.ts';
import { Day, StoredDay, StoredTime, Time } from './time.ts';

export const Rejection = z.object({
  index: z.number().int(),
  /** The event's id as sent; null without one. */
  id: z.string().nullable(),
  code: z.string(),
  message: z.string(),
});
export type Rejection = z.infer<typeof Rejection>;

/** A hint about an accepted event. */
export const RecordWarning = z.object({
  index: z.number().int(),
  /**
   * DIMENSION_OVERFLOW: the merchant's day has reached the limit of values for this dimension. UNKNOWN_PRICE: the event
   * has no cost, and some of its tokens have no known price.
   */
  code: z.enum(['DIMENSION_OVERFLOW', 'UNKNOWN_PRICE']),
  message: z.string(),
});
export type RecordWarning = z.infer<typeof RecordWarning>;

export const RecordResult = z.object({
  accepted: z.number().int(),
  duplicates: z.number().int(),
  rejected: z.array(Rejection),
  warnings: z.array(RecordWarning),
});
export type RecordResult = z.infer<typeof RecordResult>;

/** An event as counted: its time, what was sent, and what Tally derived. */
export const StoredEntry = z.object({
  id: z.string(),
  merchantId: z.string(),
  time: StoredTime,
  date: StoredDay,
  metrics: z.record(z.string(), Quantity),
  userId: z.string().nullable(),
  apiKey: z.string().nullable(),
  model: z.string().nullable(),
  provider: z.string().nullable(),
  status: z.enum(['success', 'failure']),
  /** Calls that the event stands for. */
  count: Quantity,
  properties: z.record(z.string(), z.union([z.string(), z.number(), z.boolean()])),
  /**
   * The price list version that Tally priced the event with; "0" if no price was known, null if the producer sent a
   * cost or nothing needed a price.
   */
  priceVersion: z.string().nullable(),
  /** False while the event waits in Redis to be flushed. */
  flushed: z.boolean(),
});
export type StoredEntry = z.infer<typeof StoredEntry>;

/** An event that was not counted, because another event has its id. */
export const IdConflict = z.object({
  merchantId: z.string(),
  id: z.string(),
  /** The day on which the event with this id is counted. */
  date: StoredDay,
  counted: z.object({ digest: z.string(), time: StoredTime }),
  /** The event that was not counted. */
  notCounted: z.object({ digest: z.string(), time: StoredTime, entry: StoredEntry }),
  /** The path by which it arrived: stream, direct or backfill. */
  source: z.string(),
  recordedAt: StoredTime,
});
export type IdConflict = z.infer<typeof IdConflict>;

/** A dimension as stored, so that `(other)` can be corrected, too. */
const CorrectedDimension = Dimension.normalize('NFC').optional();
const Dimensions = z.strictObject({
  userId: CorrectedDimension,
  apiKey: CorrectedDimension,
  model: CorrectedDimension,
  provider: CorrectedDimension,
});

const RecordedDimensions = z.object({
  userId: z.string().nullable(),
  apiKey: z.string().nullable(),
  model: z.string().nullable(),
  provider: z.string().nullable(),
});

/** A correction: signed amounts added to the sums of a day, with author and reason. */
export const Adjustment = z.object({
  id: z.string(),
  merchantId: z.string(),
  date: StoredDay,
  metrics: z.record(z.string(), Quantity),
  dimensions: RecordedDimensions,
  reason: z.string(),
  actor: z.string(),
  createdAt: StoredTime,
});
export type Adjustment = z.infer<typeof Adjustment>;

export const Explanation = z.object({
  merchantId: z.string(),
  /** Present if one day was asked for. */
  date: StoredDay.optional(),
  startDate: StoredDay,
  endDate: StoredDay,
  metricType: z.string(),
  /** The explained number: events and adjustments of all days. */
  value: Quantity,
  /** False if pending events could not be flushed in time: the number does not contain them. */
  complete: z.boolean(),
  /** Events and calls behind the number, without adjustments. */
  entryCount: Quantity,
  callCount: Quantity,
  flushCount: z.number().int(),
  adjustmentCount: z.number().int(),
  /** True if events and adjustments add up to the stored number on all days; null if no day could be compared. */
  agrees: z.boolean().nullable(),
  /** The first day from which on all events are kept; null if none were ever dropped. */
  keptFrom: StoredDay.nullable(),
  /** Days with a part of the number, in order; on the first page only. */
  byDay: z.array(
    z.object({
      date: StoredDay,
      value: Quantity,
      /** The part that comes from adjustments. */
      adjusted: Quantity,
      /** Events that are kept. */
      entryCount: Quantity,
      callCount: Quantity,
      /** False if the events were dropped; their sum is kept. */
      kept: z.boolean(),
      /** True if events and adjustments add up to the stored number; null if nothing is stored. */
      agrees: z.boolean().nullable(),
    }),
  ),
  /** The newest 100 flushes, on the first page only. */
  flushes: z.array(
    z.object({
      flushId: z.string(),
      source: z.string(),
      at: StoredTime,
      entries: Quantity,
      calls: Quantity,
      value: Quantity,
    }),
  ),
  /** The newest 100 adjustments, oldest first, on the first page only. */
  adjustments: z.array(Adjustment),
  /** A page of the events behind the number, in order of day and id. */
  entries: z.array(StoredEntry),
  /** Later pages repeat the figures of the first. */
  nextCursor: z.string().nullable(),
});
export type Explanation = z.infer<typeof Explanation>;

/** Records events, explains the numbers that they make, and corrects them. */
export const usage = {
  record: mutation({
    summary: 'Records up to 1,000 events; a bad event rejects itself, never the batch.',
    access: 'record',
    merchants: 'each',
    // 1,000 events with all fields, 32 metrics and 16 properties have 60,000.
    maxItems: 61_000,
    input: z.strictObject({
      // Entries are checked one by one, so that a bad one rejects only itself.
      entries: z.array(AnyEntry).min(1).max(MAX_BATCH),
      /** Admins only: accepts events older than the journal's retention. */
      backfill: z.boolean().optional(),
    }),
    output: RecordResult,
  }),
  track: mutation({
    summary: 'Adds to one counter of a merchant and returns its total of the day.',
    access: 'record',
    input: z.strictObject({
      merchantId: MerchantId,
      metricType: MetricType,
      by: z.union([DecimalText, z.number().int().min(0)]).optional(),
      time: Time.optional(),
      /** With an id a retry counts once; without one it counts again. */
      id: EntryId.optional(),
    }),
    output: z.object({ total: Quantity }),
  }),
  current: query({
    summary: 'Returns the totals of a merchant and day, including what is not flushed yet.',
    access: 'read',
    input: z.strictObject({
      merchantId: MerchantId,
      date: Day.optional(),
      metricTypes: z.array(MetricType).max(100).optional(),
    }),
    /** `complete` is false if a store was unavailable, so totals may miss acknowledged events. */
    output: z.object({
      date: StoredDay,
      metrics: z.record(z.string(), Quantity),
      asOf: StoredTime,
      complete: z.boolean(),
    }),
  }),
  recent: query({
    summary: 'Lists the newest events of a merchant.',
    access: 'read',
    input: z.strictObject({ merchantId: MerchantId, limit: z.number().int().min(1).max(1000).default(100) }),
    /** `complete` is false if a store was unavailable, so newer events may be missing. */
    output: z.object({ rows: z.array(StoredEntry), nextCursor: z.null(), complete: z.boolean() }),
  }),
  /**
   * Explains a number by its events, after a flush. Throws JOURNAL_DROPPED for a closed `date`; a closed day inside a
   * range has its number but no events. Throws NOT_FOUND for a merchant without usage and for an unknown metric type,
   * and TOO_MANY_ROWS if a range may have over 5 million events.
   */
  explain: query({
    summary: 'Lists the events, adjustments and flushes behind a number.',
    access: 'read',
    input: z
      .strictObject({
        merchantId: MerchantId,
        /** One day, or both ends of a range. */
        date: Day.optional(),
        startDate: Day.optional(),
        endDate: Day.optional(),
        metricType: MetricType,
        userIds: DimensionValues,
        models: DimensionValues,
        providers: DimensionValues,
        apiKeys: DimensionValues,
        limit: z.number().int().min(1).max(1000).default(100),
        cursor: Cursor.optional(),
      })
      .refine(
        ({ date, startDate, endDate }) =>
          date === undefined
            ? startDate !== undefined && endDate !== undefined
            : startDate === undefined && endDate === undefined,
        { error: 'Give `date`, or `startDate` and `endDate`.' },
      )
      .meta({ examples: [{ merchantId: 'acme', date: '2026-11-22', metricType: 'cost' }] }),
    output: Explanation,
  }),
  /**
   * Events whose id belongs to another, counted event with other amounts, dimensions, status, count or properties.
   * Flushes first. Kept as long as the events of the day.
   */
  conflicts: query({
    summary: 'Lists events that were not counted because their id stands for another event.',
    access: 'read',
    input: z.strictObject({
      startDate: Day,
      endDate: Day,
      merchantId: MerchantId.optional(),
      limit: z.number().int().min(1).max(1000).default(100),
      cursor: Cursor.optional(),
    }),
    /** `complete` is false if pending events, which may be conflicts, were not flushed. */
    output: z.object({ rows: z.array(IdConflict), nextCursor: z.string().nullable(), complete: z.boolean() }),
  }),
  /**
   * Lists changed merchant-days, for copies of the numbers: read the numbers of each row again. The first call, and a
   * cursor older than 7 days, or from before a restore or a failover that lost commits, start with every merchant-day.
   * No commit is missed, in whatever order they commit.
   */
  changes: query({
    summary: 'Lists the days of merchants whose numbers changed since a cursor.',
    access: 'read',
    input: z
      .strictObject({
        /** The `nextCursor` of the previous call. */
        since: Cursor.optional(),
        /** Default: all merchants that the key may read. */
        merchantIds: z.array(MerchantId).max(1000).optional(),
        limit: z.number().int().min(1).max(10_000).default(1000),
      })
      .prefault({}),
    output: z.object({
      rows: z.array(
        z.object({
          merchantId: z.string(),
          date: StoredDay,
          /** Null in the initial list of all days. */
          changedAt: StoredTime.nullable(),
        }),
      ),
      nextCursor: z.string(),
      /** False once every change before the oldest running transaction was listed: ask later with `nextCursor`. */
      hasMore: z.boolean(),
    }),
  }),
  adjust: mutation({
    summary: 'Corrects the sums of a day by signed amounts, with a reason.',
    access: 'admin',
    input: z.strictObject({
      id: EntryId,
      merchantId: MerchantId,
      date: Day,
      /** Signed amounts by metric type; `requests` and `failed_requests` are allowed too. */
      metrics: record(200, MetricType, DecimalText),
      dimensions: Dimensions.optional(),
      reason: storable(1000).trim().min(1),
    }),
    output: Adjustment,
  }),
  void: mutation({
    summary: 'Takes one event back, once, with a reason.',
    access: 'admin',
    /** Without `date`: the only event with this id. CONFLICT names the days if there are several. */
    input: z.strictObject({
      merchantId: MerchantId,
      id: EntryId,
      date: Day.optional(),
      reason: storable(1000).trim().min(1),
    }),
    output: Adjustment,
  }),
} as const;
