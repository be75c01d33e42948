import { z } from 'zod';
import { mutation, query } from './contract.ts';
import { MerchantId } from './entry.ts';
import { Quantity } from './quantity.ts';
import { Day, StoredDay, StoredTime } from './time.ts';

/** Without merchants, all that the caller may name. */
const MerchantsToFlush = z.strictObject({ merchantIds: z.array(MerchantId).max(1000).optional() }).prefault({});
/** `complete`: everything acknowledged before `asOf` is in Postgres, and that is the time of the call. */
const Flushed = z.object({ recordsAggregated: z.number().int(), complete: z.boolean(), asOf: StoredTime });

/** A running total checked after the drain. */
export const TotalMismatch = z.object({
  merchantId: z.string(),
  date: StoredDay,
  metricType: z.string(),
  live: Quantity,
  merchantUsage: Quantity,
});

export const FlushResult = z.object({
  success: z.boolean(),
  /** Running totals compared with `merchant_usage`. */
  keysProcessed: z.number().int(),
  /** Events that this run counted into Postgres. */
  recordsAggregated: z.number().int(),
  errors: z.array(z.object({ key: z.string(), message: z.string() })),
  durationMs: z.number(),
  /** Running totals with a difference. Events accepted during the run are not among them. */
  disagreeing: z.array(TotalMismatch),
});
export type FlushResult = z.infer<typeof FlushResult>;

/** Moves accepted events from Redis to Postgres. */
export const flush = {
  run: mutation({
    summary: 'Moves accepted events from Redis to Postgres, for all merchants.',
    access: 'admin',
    platform: true,
    input: z.strictObject({ date: Day.optional() }).prefault({}),
    output: FlushResult,
  }),
  merchant: mutation({
    summary: 'Moves accepted events of one merchant from Redis to Postgres.',
    access: 'admin',
    input: z.strictObject({ merchantId: MerchantId, date: Day.optional() }),
    output: FlushResult,
  }),
  range: mutation({
    summary: 'Flushes, and verifies the totals of each day of a range.',
    access: 'admin',
    platform: true,
    input: z.strictObject({ startDate: Day, endDate: Day }),
    output: z.object({
      success: z.boolean(),
      days: z.array(FlushResult.extend({ date: StoredDay })),
      durationMs: z.number(),
    }),
  }),
  status: query({
    summary: 'Returns what waits to be flushed.',
    access: 'admin',
    platform: true,
    input: z.strictObject({ date: Day.optional() }).prefault({}),
    output: z.object({
      date: StoredDay,
      /** True if no events wait in Redis and the day has rows in Postgres. */
      aggregated: z.boolean(),
      /** Merchants with pending events in Redis; null while Redis is unavailable. */
      pendingKeys: z.number().int().nullable(),
      /** Rows of `merchant_usage` for the date. */
      recordCount: z.number().int(),
      lastFlushAt: StoredTime.nullable(),
      /** Age of the oldest pending event; 0 without one, null while Redis is unavailable. */
      lagMs: z.number().nullable(),
    }),
  }),
  drain: mutation({
    summary: 'Flushes everything that was acknowledged before the call.',
    access: 'internal',
    input: MerchantsToFlush,
    output: Flushed,
  }),
  /**
   * The same for readers of Postgres, which call it first: while the oldest waiting event is older than 10 s, it
   * answers after 2 s, and `asOf` is the time of that event.
   */
  beforeRead: mutation({
    summary: 'Flushes before a read, without waiting for a large backlog.',
    access: 'internal',
    input: MerchantsToFlush,
    output: Flushed,
  }),
} as const;
