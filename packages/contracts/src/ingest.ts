import { z } from 'zod';
import { Role } from './access.ts';
import { audit } from './audit.ts';
import { budgets } from './budgets.ts';
import { mutation, query, type RouterOf } from './contract.ts';
import { AnyEntry, Dimension, DimensionValues, EntryId, MAX_BATCH, MerchantId, MetricType, record } from './entry.ts';
import { litellm } from './litellm.ts';
import { meters } from './meters.ts';
import { prices } from './prices.ts';
import { DecimalText, Quantity } from './quantity.ts';
import { sessions } from './sessions.ts';
import { sources } from './sources.ts';
import { Cursor, label, SearchText, storable } from './text.ts';
import { Day, StoredDay, StoredTime, Time } from './time.ts';
import { users } from './users.ts';

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

const book = Quantity.nullable();

/** A number that differs between stored forms; null for a form that does not hold it. */
export const Drift = z.object({
  merchantId: z.string(),
  /** For a month that differs from its days, or a year that differs from its months: its first day. */
  date: StoredDay,
  metricType: z.string(),
  /** Events and adjustments. */
  journal: Quantity,
  daily: book,
  usage: Quantity,
  /** The running total minus pending events. */
  live: book,
  dailyModels: book,
  quarterHours: book,
  monthly: book,
  yearly: book,
  /** The derived rollup that differs from its source; `merchantId` is '' for a rollup of all merchants. */
  rollup: z.string().optional(),
  /** The first differing form minus the journal. */
  drift: Quantity,
  /** Events that the difference may come from. */
  suspects: z.array(z.object({ id: z.string(), why: z.string() })),
});

/** Rows of a meter's rollup that differ from their source: the journal, or the finer rollup. */
export const MeterDrift = z.object({
  meter: z.string(),
  merchantId: z.string(),
  /** The day, or the first day of the month. */
  date: StoredDay,
  rollup: z.enum(['meter_quarters', 'meter_days', 'meter_months', 'meter_trimesters', 'meter_years']),
  /** The number of differing rows. */
  rows: z.number().int(),
  /** One differing row. A side is null if it has no such row; for UNIQUE and PERCENTILE it is a count. */
  first: z.object({
    period: z.string(),
    /** Values of the meter's dimensions, in their order. */
    group: z.array(z.string()),
    journal: Quantity.nullable(),
    stored: Quantity.nullable(),
  }),
});

export const DeadLetter = z.object({
  id: z.string(),
  merchantId: z.string(),
  date: StoredDay,
  entryId: z.string(),
  code: z.string(),
  message: z.string(),
  attempts: z.number().int(),
  createdAt: StoredTime,
  resolvedAt: StoredTime.nullable(),
});
export type DeadLetter = z.infer<typeof DeadLetter>;

export const ApiKey = z.object({
  id: z.string(),
  name: z.string(),
  role: Role,
  merchantId: z.string().nullable(),
  teamId: z.string().nullable(),
  createdAt: StoredTime,
  /** The id of the key that created it; null for keys that are older than this field. */
  createdBy: z.string().nullable(),
  /** To the minute; null where it was never used. */
  lastUsedAt: StoredTime.nullable(),
  /** The key is refused from then on; null: never. */
  expiresAt: StoredTime.nullable(),
  rotatedAt: StoredTime.nullable(),
  /** Until then, the secret from before the last rotation works too. */
  previousSecretExpiresAt: StoredTime.nullable(),
  revokedAt: StoredTime.nullable(),
  revokedBy: z.string().nullable(),
});
export type ApiKey = z.infer<typeof ApiKey>;

/** `key` is the secret. Only this answer contains it; Tally keeps its hash. */
const NewApiKey = ApiKey.extend({ key: z.string() });

const KeyName = label(100);

/** usage-ingest: records usage, counts it, flushes it to Postgres. */
export const ingest = {
  usage: {
    record: mutation({
      summary: 'Records up to 1,000 events; a bad event rejects itself, never the batch.',
      access: 'record',
      merchants: 'each',
      // 1,000 entries with all fields, metrics and properties.
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
  },
  reconcile: {
    check: query({
      summary: 'Compares all stored forms of the numbers of some days.',
      access: 'admin',
      input: z.strictObject({ startDate: Day, endDate: Day, merchantIds: z.array(MerchantId).max(1000).optional() }),
      output: z.object({
        balanced: z.boolean(),
        drift: z.array(Drift),
        meters: z.array(MeterDrift),
        merchantsChecked: z.number().int(),
        /** Merchant, day and metric type, each compared over all stored forms, and rows of meters. */
        numbersChecked: z.number().int(),
      }),
    }),
    /**
     * Rebuilds all rollups of these days from events and adjustments, by merchant and month; days whose events were
     * dropped are rebuilt from their daily sums. A repeat changes nothing; an interrupted call keeps what is done.
     */
    rebuild: mutation({
      summary: 'Computes all sums of some days again from events and adjustments.',
      access: 'admin',
      input: z.strictObject({ startDate: Day, endDate: Day, merchantIds: z.array(MerchantId).max(1000).optional() }),
      output: z.object({
        merchants: z.number().int(),
        days: z.number().int(),
        /** Merchant-days that have no events any more. */
        closedDays: z.number().int(),
        durationMs: z.number().int(),
      }),
    }),
    /**
     * Checks the days that Redis keeps, and corrects running totals from Postgres. Rebuilds meter rollups that differ.
     */
    repair: mutation({
      summary: 'Checks the days that Redis keeps; corrects its totals and the rollups of meters.',
      access: 'admin',
      platform: true,
      input: z.strictObject({}).prefault({}),
      output: z.object({
        balanced: z.boolean(),
        drift: z.array(Drift),
        meters: z.array(MeterDrift),
        repaired: z.number().int(),
      }),
    }),
  },
  deadLetters: {
    list: query({
      summary: 'Lists events that Postgres rejected.',
      access: 'admin',
      input: z
        .strictObject({
          merchantId: MerchantId.optional(),
          includeResolved: z.boolean().default(false),
          limit: z.number().int().min(1).max(1000).default(100),
          cursor: z
            .string()
            .regex(/^\d{1,18}$/)
            .optional(),
        })
        .prefault({}),
      output: z.object({ rows: z.array(DeadLetter), nextCursor: z.string().nullable() }),
    }),
    /**
     * Retries dead letters, oldest first: the named ones, those of a merchant, or all. `left` counts those not tried
     * because of `limit`; call again for them.
     */
    retry: mutation({
      summary: 'Tries again to count events that Postgres rejected.',
      access: 'admin',
      input: z
        .strictObject({
          merchantId: MerchantId.optional(),
          ids: z
            .array(z.string().regex(/^\d{1,18}$/))
            .max(1000)
            .optional(),
          limit: z.number().int().min(1).max(1000).default(1000),
        })
        .prefault({}),
      output: z.object({ counted: z.number().int(), stillRefused: z.array(DeadLetter), left: z.number().int() }),
    }),
  },
  journal: {
    /** Closes days past the retention: drops their events and keeps their sums. */
    close: mutation({
      summary: 'Closes days that are past the retention: their sums stay, their events go.',
      access: 'admin',
      platform: true,
      input: z.strictObject({}).prefault({}),
      output: z.object({ closed: z.array(StoredDay) }),
    }),
  },
  flush: {
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
  },
  keys: {
    create: mutation({
      summary: 'Creates an API key; its secret is shown once.',
      access: 'admin',
      platform: true,
      input: z.strictObject({
        name: KeyName,
        role: Role.exclude(['service']),
        merchantId: MerchantId.optional(),
        teamId: MerchantId.optional(),
        /** Must be in the future; without it the key does not expire. */
        expiresAt: Time.optional(),
      }),
      output: NewApiKey,
    }),
    /**
     * Gives a key a new secret. Its id and everything that belongs to it stay. The previous secret works for the
     * overlap; any older one stops. Throws CONFLICT for a revoked key, and for an expired key without a later
     * `expiresAt`.
     */
    rotate: mutation({
      summary: 'Gives an API key a new secret; the old one works for the overlap.',
      access: 'admin',
      platform: true,
      input: z.strictObject({
        id: z.uuid(),
        overlapSeconds: z
          .number()
          .int()
          .min(0)
          .max(30 * 24 * 3600)
          .default(24 * 3600),
        expiresAt: Time.optional(),
      }),
      output: NewApiKey,
    }),
    /** Oldest first. */
    list: query({
      summary: 'Lists API keys, oldest first.',
      access: 'admin',
      platform: true,
      input: z
        .strictObject({
          includeRevoked: z.boolean().default(false),
          /** A part of the name, the id, the merchant or the team, in any case. */
          search: SearchText.optional(),
          limit: z.number().int().min(1).max(1000).default(100),
          cursor: Cursor.optional(),
        })
        .prefault({}),
      output: z.object({ rows: z.array(ApiKey), nextCursor: z.string().nullable() }),
    }),
    /** All processes refuse the key within a second. Revoking it again changes nothing. */
    revoke: mutation({
      summary: 'Revokes an API key.',
      access: 'admin',
      platform: true,
      input: z.strictObject({ id: z.uuid() }),
      output: ApiKey,
    }),
  },
  meters,
  prices,
  budgets,
  sessions,
  audit,
  sources,
  litellm,
  users,
} as const;

export type IngestRouter = RouterOf<typeof ingest>;
