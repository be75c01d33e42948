import { z } from 'zod';
import { Role } from './access.ts';
import { mutation, query, type RouterOf } from './contract.ts';
import { EntryId, MAX_BATCH, MerchantId, MetricType, type UsageEntry } from './entry.ts';
import { Quantity } from './quantity.ts';
import { Day, Time } from './time.ts';

export const Rejection = z.object({
  index: z.number().int(),
  /** The entry's id as it was sent; null where it had none. */
  id: z.string().nullable(),
  code: z.string(),
  message: z.string(),
});
export type Rejection = z.infer<typeof Rejection>;

export const RecordResult = z.object({
  accepted: z.number().int(),
  duplicates: z.number().int(),
  rejected: z.array(Rejection),
});
export type RecordResult = z.infer<typeof RecordResult>;

/** An entry as it was counted: its time settled, what Tally derived beside what was sent. */
export const StoredEntry = z.object({
  id: z.string(),
  merchantId: z.string(),
  time: Time,
  date: Day,
  metrics: z.record(z.string(), Quantity),
  userId: z.string().nullable(),
  apiKey: z.string().nullable(),
  model: z.string().nullable(),
  provider: z.string().nullable(),
  status: z.enum(['success', 'failure']),
  /** Calls that the entry stands for. */
  count: Quantity,
  properties: z.record(z.string(), z.union([z.string(), z.number(), z.boolean()])),
  /** False while the entry waits in Redis to be flushed. */
  flushed: z.boolean(),
});
export type StoredEntry = z.infer<typeof StoredEntry>;

/** One total of a day that was looked at after the drain. */
export const TotalMismatch = z.object({
  merchantId: z.string(),
  date: Day,
  metricType: z.string(),
  live: Quantity,
  merchantUsage: Quantity,
});

export const FlushResult = z.object({
  success: z.boolean(),
  /** Totals compared with `merchant_usage`. */
  keysProcessed: z.number().int(),
  /** Entries that this run counted into Postgres. */
  recordsAggregated: z.number().int(),
  errors: z.array(z.object({ key: z.string(), message: z.string() })),
  durationMs: z.number(),
  /** Totals that did not agree; what was accepted while the run looked is not among them. */
  disagreeing: z.array(TotalMismatch),
});
export type FlushResult = z.infer<typeof FlushResult>;

export const ApiKey = z.object({
  id: z.string(),
  name: z.string(),
  role: Role,
  merchantId: z.string().nullable(),
  teamId: z.string().nullable(),
  createdAt: Time,
  revokedAt: Time.nullable(),
});
export type ApiKey = z.infer<typeof ApiKey>;

const KeyName = z.string().trim().min(1).max(100);

/** usage-ingest: records usage, counts it, brings it to Postgres. */
export const ingest = {
  usage: {
    record: mutation({
      access: 'record',
      input: z.strictObject({
        // Entries are checked one by one, so that a bad one rejects itself and never the batch.
        entries: z
          .array(z.custom<UsageEntry>(() => true))
          .min(1)
          .max(MAX_BATCH),
        /** Admins only: entries older than the journal's retention. */
        backfill: z.boolean().optional(),
      }),
      output: RecordResult,
    }),
    track: mutation({
      access: 'record',
      input: z.strictObject({
        merchantId: MerchantId,
        metricType: MetricType,
        by: z.union([z.string(), z.number().int().min(0)]).optional(),
        time: Time.optional(),
        /** With an id a retry counts once; without one it counts again. */
        id: EntryId.optional(),
      }),
      output: z.object({ total: Quantity }),
    }),
    current: query({
      access: 'read',
      input: z.strictObject({
        merchantId: MerchantId,
        date: Day.optional(),
        metricTypes: z.array(MetricType).max(100).optional(),
      }),
      output: z.object({ date: Day, metrics: z.record(z.string(), Quantity), asOf: Time }),
    }),
    recent: query({
      access: 'read',
      input: z.strictObject({ merchantId: MerchantId, limit: z.number().int().min(1).max(1000).default(100) }),
      output: z.object({ rows: z.array(StoredEntry), nextCursor: z.null() }),
    }),
  },
  flush: {
    run: mutation({ access: 'admin', input: z.strictObject({ date: Day.optional() }), output: FlushResult }),
    merchant: mutation({
      access: 'admin',
      input: z.strictObject({ merchantId: MerchantId, date: Day.optional() }),
      output: FlushResult,
    }),
    range: mutation({
      access: 'admin',
      input: z.strictObject({ startDate: Day, endDate: Day }),
      output: z.object({
        success: z.boolean(),
        days: z.array(FlushResult.extend({ date: Day })),
        durationMs: z.number(),
      }),
    }),
    status: query({
      access: 'admin',
      input: z.strictObject({ date: Day.optional() }),
      output: z.object({
        date: Day,
        /** True when nothing waits in Redis and the day has rows in Postgres. */
        aggregated: z.boolean(),
        /** Merchants with entries waiting in Redis. */
        pendingKeys: z.number().int(),
        /** Rows of `merchant_usage` for the date. */
        recordCount: z.number().int(),
        lastFlushAt: Time.nullable(),
        /** Age of the oldest entry that waits; 0 where none does, null where Redis is away. */
        lagMs: z.number().nullable(),
      }),
    }),
    /** Flushes all that was acknowledged before the call; what a reader asks for before it reads. */
    drain: mutation({
      access: 'internal',
      input: z.strictObject({ merchantIds: z.array(MerchantId).max(1000).optional() }),
      output: z.object({ recordsAggregated: z.number().int(), complete: z.boolean(), asOf: Time }),
    }),
  },
  keys: {
    create: mutation({
      access: 'admin',
      input: z.strictObject({
        name: KeyName,
        role: Role.exclude(['service']),
        merchantId: MerchantId.optional(),
        teamId: MerchantId.optional(),
      }),
      /** `key` is the secret; it is shown here once and only its hash is kept. */
      output: ApiKey.extend({ key: z.string() }),
    }),
    list: query({
      access: 'admin',
      input: z.strictObject({ includeRevoked: z.boolean().default(false) }).default({ includeRevoked: false }),
      output: z.object({ rows: z.array(ApiKey), nextCursor: z.null() }),
    }),
    revoke: mutation({ access: 'admin', input: z.strictObject({ id: z.uuid() }), output: ApiKey }),
  },
} as const;

export type IngestRouter = RouterOf<typeof ingest>;
