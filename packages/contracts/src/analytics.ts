import { z } from 'zod';
import { bills } from './bills.ts';
import { type Endpoint, mutation, query, type RouterOf } from './contract.ts';
import { days } from './days.ts';
import { Dimension, DimensionValues, inBothForms, MerchantId, MetricType, record, SentDimension } from './entry.ts';
import { MAX_METER_DIMENSIONS, MeterDimension, MeterKey } from './meters.ts';
import { Quantity } from './quantity.ts';
import { Cursor, label, name, SearchText, text } from './text.ts';
import { BOTH_ENDS, Day, hasBothEnds, OptionalRange, StoredDay, StoredTime, Time } from './time.ts';

const list = <T extends z.ZodType>(item: T) => z.array(item).max(1000).optional();

/** Selects the events that a query covers. All given filters hold at once; an empty list is no filter. */
export const Filters = z.strictObject({
  startDate: Day,
  endDate: Day,
  merchantIds: list(MerchantId),
  userIds: DimensionValues,
  models: DimensionValues,
  providers: DimensionValues,
  apiKeys: DimensionValues,
  /** A team of the directory: the team of the API key, else of the user. `unknown`: usage without a team. */
  teams: DimensionValues,
});
export type Filters = z.infer<typeof Filters>;

export const Measures = z.object({
  requests: Quantity,
  failedRequests: Quantity,
  promptTokens: Quantity,
  completionTokens: Quantity,
  totalTokens: Quantity,
  /** USD. */
  cost: Quantity,
  /**
   * Percent with 2 decimals, 100 only if no request failed; null without requests, or where corrections leave fewer
   * requests than failed ones, or a negative number of either.
   */
  successRate: z.number().nullable(),
});
export type Measures = z.infer<typeof Measures>;

/** How complete and how fresh an answer is. */
export const Coverage = z.object({
  /** cache: closed days only; live: today only; mixed: both; none: no source answered. */
  dataSource: z.enum(['cache', 'live', 'mixed', 'none']),
  /** The answer contains every event acknowledged before this moment; null if unknown. */
  asOf: StoredTime.nullable(),
  /** False if a source failed, or if days were imported as sums that cannot answer this query. */
  complete: z.boolean(),
  /** Measures that imported days in the range do not contain. These measures are too low by the usage of those days. */
  unknown: z.array(z.enum(['failedRequests', 'promptTokens', 'completionTokens'])).optional(),
  /**
   * True if a filtered dimension exceeded its limit of values on a day: usage of the named values may be counted under
   * `(other)` there. In an answer by team: if users or API keys did, whose usage has no team there.
   */
  overflow: z.literal(true).optional(),
  /**
   * Meters only: the answer has no events of days before this one, since they were dropped before the meter was
   * created.
   */
  knownFrom: StoredDay.optional(),
});
export type Coverage = z.infer<typeof Coverage>;

export const GroupBy = z.enum(['user', 'model', 'provider', 'apiKey', 'merchant']);
export type GroupBy = z.infer<typeof GroupBy>;

/** What a breakdown groups by; `team`: the team of the API key in the directory, else of the user. */
export const Grouping = z.enum([...GroupBy.options, 'team']);
export type Grouping = z.infer<typeof Grouping>;

/** One grouping, or two different ones at once. */
export const BreakdownBy = z.union([
  Grouping,
  z.tuple([Grouping, Grouping]).refine(([first, second]) => first !== second, 'Expected two different groupings.'),
]);
export type BreakdownBy = z.infer<typeof BreakdownBy>;

export const SortBy = z.enum([
  'cost',
  'requests',
  'failedRequests',
  'promptTokens',
  'completionTokens',
  'totalTokens',
  'key',
]);
export type SortBy = z.infer<typeof SortBy>;

const Pair = z.tuple([z.string(), z.string()]);

/**
 * With two groupings: `keys` and `labels` are in the order of the query, `key` and `label` join both, `details` are by
 * grouping.
 */
export const BreakdownRow = Measures.extend({
  key: z.string(),
  label: z.string(),
  keys: Pair.optional(),
  labels: Pair.optional(),
  details: z.record(z.string(), z.unknown()),
});
export type BreakdownRow = z.infer<typeof BreakdownRow>;

/**
 * One part of an answer: the rollup it was read from and the UTC days read there. `daily_usage_cache`: imported days.
 * `usage_later`: usage counted after `asKnownOn`. `usage_quarter_months`: quarters of a month, which begin on the 1st,
 * 9th, 16th and 23rd. `usage_platform_*` rollups hold all merchants in one row.
 */
export const PlanPart = z.object({
  cube: z.enum([
    'usage_yearly',
    'usage_monthly',
    'usage_quarter_months',
    'usage_daily',
    'usage_daily_models',
    'usage_monthly_models',
    'usage_platform_daily',
    'usage_platform_monthly',
    'usage_platform_users',
    'usage_quarter_hours',
    'usage_events',
    'daily_usage_cache',
    'usage_later',
  ]),
  startDate: StoredDay,
  endDate: StoredDay,
  /** Subtracted: the days of a period read as a whole that are outside the range. */
  less: z.literal(true).optional(),
});
export type PlanPart = z.infer<typeof PlanPart>;

export const Trend = z.object({
  current: Quantity,
  previous: Quantity,
  /** Rounded to 2 decimals; 100 if the previous value is 0 and the current one is not. */
  percentageChange: z.number(),
  /** `stable` is a change of at most 1 percent. */
  direction: z.enum(['up', 'down', 'stable']),
});
export type Trend = z.infer<typeof Trend>;

export const Interval = z.enum(['15m', 'hour', 'day', 'week', 'month']);
export type Interval = z.infer<typeof Interval>;

/** A name of the IANA time zone database. */
export const TimeZone = z
  .string()
  .max(64)
  .refine(isTimeZone, { error: 'Expected an IANA time zone, such as Asia/Tokyo.' });

function isTimeZone(name: string): boolean {
  try {
    return /^[A-Za-z]/.test(name) && new Intl.DateTimeFormat('en', { timeZone: name }) !== undefined;
  } catch {
    return false;
  }
}

export const DirectoryKind = z.enum(['user', 'apiKey', 'merchant']);
export type DirectoryKind = z.infer<typeof DirectoryKind>;

/** A directory entry of a user, an API key or a merchant. Labels come from it. */
export const DirectoryEntry = z.strictObject({
  kind: DirectoryKind,
  id: SentDimension.min(1),
  /** The displayed name: the username, the alias of the key, or the name of the merchant. */
  name: label(256),
  email: name(320).nullable().default(null),
  role: label(64).nullable().default(null),
  /** Null: for every merchant. An entry of the merchant itself comes first. */
  merchantId: MerchantId.nullable().default(null),
  /** The team of a user or an API key. Absent: unchanged; null or `unknown`: none. */
  team: SentDimension.min(1).nullable().optional(),
});
export type DirectoryEntry = z.infer<typeof DirectoryEntry>;

const StoredDirectoryEntry = z.object({
  kind: DirectoryKind,
  id: z.string(),
  name: z.string(),
  email: z.string().nullable(),
  role: z.string().nullable(),
  merchantId: z.string().nullable(),
  team: z.string().nullable(),
});

const explain = z.boolean().optional();
const plan = z.array(PlanPart).optional();

/**
 * As the numbers were known at this moment: without what was counted, adjusted or voided later. JOURNAL_DROPPED where
 * events that came later are no longer in the journal.
 */
const asKnownOn = Time.optional();

export const MeterWindow = z.enum(['hour', 'day', 'week', 'month', 'total']);
export type MeterWindow = z.infer<typeof MeterWindow>;

const GroupOfMeter = z.union([z.literal('merchant'), MeterDimension]);

/** Filters of a meter query: every dimension must have one of its listed values. */
const MeterFilter = record(MAX_METER_DIMENSIONS, MeterDimension, z.array(Dimension).min(1).max(1000));

/** A range given as days in `timeZone`, or as moments; `from` is inclusive and `to` exclusive. */
export const MeterQuery = z
  .strictObject({
    meter: MeterKey,
    merchantIds: list(MerchantId),
    startDate: Day.optional(),
    endDate: Day.optional(),
    from: Time.optional(),
    to: Time.optional(),
    window: MeterWindow.default('total'),
    timeZone: TimeZone.default('UTC'),
    groupBy: z.array(GroupOfMeter).max(3).optional(),
    filters: MeterFilter.optional(),
    /** The same filters as text, `dimension=value` each, for query parameters. */
    filter: z
      .array(text(400).regex(/^[^=]+=/, 'Expected dimension=value, such as model=gpt-4o'))
      .max(1000)
      .optional(),
    /** The percentile of a PERCENTILE meter, from 0 to 100. */
    percentile: z.number().min(0).max(100).default(50),
    asKnownOn,
  })
  .refine(
    ({ startDate, endDate, from, to }) =>
      startDate !== undefined
        ? endDate !== undefined && from === undefined && to === undefined
        : endDate === undefined && from !== undefined && to !== undefined,
    { error: 'Give startDate and endDate, or from and to.' },
  );
z.globalRegistry.add(MeterQuery, {
  examples: [
    { meter: 'total_tokens', startDate: '2026-11-01', endDate: '2026-11-20', window: 'day', groupBy: ['model'] },
  ],
});
export type MeterQuery = z.infer<typeof MeterQuery>;

const ADMIN_USAGE = '/api/v1/admin/usage';
/** Path and field names of the existing API that these paths reproduce. */
const FOREIGN = {
  anyType: true,
  aliases: { modelIds: 'models', providerIds: 'providers', apiKeyIds: 'apiKeys' },
} as const;

/** analytics-api: answers queries about usage. With `explain: true`, an answer reports how it was read. */
export const analytics = {
  analytics: {
    summary: query({
      summary: 'Returns totals, days, top users and models, and trends of a range.',
      rest: [
        { method: 'GET', path: '/api/v1/usage/summary', numbers: true },
        { method: 'POST', path: `${ADMIN_USAGE}/analytics`, ...FOREIGN },
      ],
      access: 'read',
      input: Filters.extend({ asKnownOn, explain }),
      output: z.object({
        period: z.object({ startDate: StoredDay, endDate: StoredDay, days: z.number().int() }),
        totals: Measures,
        /**
         * Users with at least one request. The same id in two merchants is two users; events without a user count for
         * none.
         */
        activeUsers: z.number().int(),
        /** Days with usage, in order. */
        byDay: z.array(Measures.extend({ date: StoredDay })),
        topUsers: z.array(BreakdownRow),
        topModels: z.array(BreakdownRow),
        /** Compares with the same number of days just before, per measure and for the active users. */
        trends: z.object({
          requests: Trend,
          failedRequests: Trend,
          promptTokens: Trend,
          completionTokens: Trend,
          totalTokens: Trend,
          cost: Trend,
          activeUsers: Trend,
        }),
        /** How many days may precede the first day that a query can name. */
        comparedWith: z.object({ startDate: StoredDay, endDate: StoredDay }),
        coverage: Coverage,
        plan,
      }),
    }),
    breakdown: query({
      summary: 'Returns the usage of a range by one dimension, sorted, in pages.',
      rest: [
        { method: 'GET', path: '/api/v1/usage/breakdown', numbers: true },
        { method: 'POST', path: `${ADMIN_USAGE}/by-user`, fixed: { by: 'user' }, ...FOREIGN },
        { method: 'POST', path: `${ADMIN_USAGE}/by-model`, fixed: { by: 'model' }, ...FOREIGN },
        { method: 'POST', path: `${ADMIN_USAGE}/by-provider`, fixed: { by: 'provider' }, ...FOREIGN },
      ],
      access: 'read',
      input: Filters.extend({
        by: BreakdownBy,
        sortBy: SortBy.default('cost'),
        order: z.enum(['asc', 'desc']).default('desc'),
        limit: z.number().int().min(1).max(200).default(50),
        cursor: Cursor.optional(),
        asKnownOn,
        explain,
      }),
      output: z.object({
        rows: z.array(BreakdownRow),
        totals: Measures,
        total: z.number().int(),
        nextCursor: z.string().nullable(),
        coverage: Coverage,
        plan,
      }),
    }),
    timeseries: query({
      summary: 'Returns the usage of a range over time, without holes.',
      rest: [{ method: 'GET', path: '/api/v1/usage/timeseries', numbers: true }],
      access: 'read',
      /** `startDate` and `endDate` are days in `timeZone`. */
      input: Filters.extend({
        interval: Interval,
        timeZone: TimeZone.default('UTC'),
        groupBy: Grouping.optional(),
        explain,
      }),
      output: z.object({
        /** One entry per period of the range, also for periods without usage. */
        points: z.array(
          Measures.extend({
            /** Start of the period in the time zone: weeks begin on Monday, months on the 1st. */
            start: StoredTime,
            /** The part of the period inside the range: `from` inclusive, `to` exclusive. */
            from: StoredTime,
            to: StoredTime,
            groups: z.array(Measures.extend({ key: z.string() })).optional(),
          }),
        ),
        coverage: Coverage,
        plan,
      }),
    }),
    filterOptions: query({
      summary: 'Lists the models, providers, users, keys and merchants seen in a range.',
      access: 'read',
      input: z.strictObject({ startDate: Day, endDate: Day, merchantIds: list(MerchantId) }),
      output: z.object({
        models: z.array(z.object({ id: z.string(), providers: z.array(z.string()) })),
        providers: z.array(z.string()),
        users: z.array(z.object({ id: z.string(), label: z.string(), email: z.string().nullable() })),
        apiKeys: z.array(z.object({ id: z.string(), label: z.string() })),
        merchants: z.array(z.object({ id: z.string(), label: z.string() })),
        /** True if a list was cut at 10,000 values. */
        truncated: z.boolean(),
        coverage: Coverage,
      }),
    }),
    merchantUsage: query({
      summary: 'Returns the daily totals of one merchant by metric type.',
      access: 'read',
      input: z.strictObject({
        merchantId: MerchantId,
        startDate: Day,
        endDate: Day,
        metricTypes: z.array(MetricType).max(100).optional(),
      }),
      output: z.object({
        rows: z.array(
          z.object({ merchantId: z.string(), date: StoredDay, metricType: z.string(), metricValue: Quantity }),
        ),
        nextCursor: z.null(),
        coverage: Coverage,
      }),
    }),
    /**
     * Reads any meter by windows and dimensions. Windows without events have no row. Throws INVALID_INPUT if the range
     * does not begin and end on window borders, and GRAIN_NOT_KEPT if it needs quarter hours that are no longer kept. The
     * total of a declared meter may begin and end at any moment whose events are kept.
     */
    meter: query({
      summary: 'Returns a meter by windows of time and by its dimensions.',
      rest: [{ method: 'GET', path: '/api/v1/usage/meter', omit: ['filters'], numbers: true }],
      access: 'read',
      input: MeterQuery,
      output: z.object({
        rows: z.array(
          z.object({ start: StoredTime, end: StoredTime, group: z.record(z.string(), z.string()), value: Quantity }),
        ),
        coverage: Coverage,
      }),
    }),
    /** Flushes pending events of all merchants that the caller may name. */
    refresh: mutation({
      summary: 'Flushes what is pending, so that the next answer is complete.',
      access: 'read',
      merchants: 'own',
      input: z.strictObject({}).prefault({}),
      output: z.object({ recordsAggregated: z.number().int(), complete: z.boolean(), refreshedAt: StoredTime }),
    }),
  },
  directory: {
    /** Inserts or replaces entries; all or none. */
    upsert: mutation({
      summary: 'Writes names, e-mail addresses and roles of users, keys and merchants.',
      maxItems: 60_000,
      access: 'admin',
      merchants: 'each',
      input: z.strictObject({ entries: z.array(DirectoryEntry).min(1).max(5000) }),
      output: z.object({ written: z.number().int() }),
    }),
    list: query({
      summary: 'Lists directory entries of a kind.',
      access: 'read',
      input: z.strictObject({
        kind: DirectoryKind,
        merchantId: MerchantId.optional(),
        /** Only entries of these ids. */
        ids: z.array(Dimension.min(1)).min(1).max(1000).overwrite(inBothForms).optional(),
        /** A part of the id, the name or the e-mail address, in any case. */
        search: SearchText.optional(),
        limit: z.number().int().min(1).max(1000).default(100),
        cursor: Cursor.optional(),
      }),
      output: z.object({ rows: z.array(StoredDirectoryEntry), nextCursor: z.string().nullable() }),
    }),
    remove: mutation({
      summary: 'Removes directory entries.',
      access: 'admin',
      input: z.strictObject({
        kind: DirectoryKind,
        ids: z.array(Dimension.min(1)).min(1).max(5000).overwrite(inBothForms),
        merchantId: MerchantId.nullable().default(null),
      }),
      output: z.object({ removed: z.number().int() }),
    }),
  },
  days,
  bills,
  cache: {
    stats: query({
      summary: 'Returns how the cache of this process did.',
      access: 'admin',
      platform: true,
      input: z.strictObject({}).prefault({}),
      output: z.object({
        /** Of this process since its start. */
        memoryHits: z.number().int(),
        redisHits: z.number().int(),
        misses: z.number().int(),
        /** Queries that joined a running one. */
        joined: z.number().int(),
        /** Failed Redis calls. The queries were answered all the same. */
        errors: z.number().int(),
        hitRate: z.number().nullable(),
        memoryEntries: z.number().int(),
        memoryBytes: z.number().int(),
      }),
    }),
    /** Drops cached answers about these merchants and days in every process. Not needed after a flush. */
    invalidate: mutation({
      summary: 'Removes cached answers about some merchants and days.',
      access: 'admin',
      input: z.strictObject({ merchantIds: z.array(MerchantId).min(1).max(1000), startDate: Day, endDate: Day }),
      output: z.object({ invalidated: z.number().int() }),
    }),
    /**
     * Runs the queries of a dashboard, so that the next reader gets cached answers. Without a range: the last 7, 30, 90
     * and 365 days.
     */
    warm: mutation({
      summary: 'Fills the cache with the answers of a dashboard.',
      access: 'admin',
      input: OptionalRange.extend({ merchantIds: list(MerchantId) })
        .refine(hasBothEnds, BOTH_ENDS)
        .prefault({}),
      output: z.object({ questions: z.number().int(), durationMs: z.number() }),
    }),
    /** Drops all cached answers in every process. */
    clear: mutation({
      summary: 'Removes all cached answers.',
      access: 'admin',
      platform: true,
      input: z.strictObject({}).prefault({}),
      output: z.object({ cleared: z.literal(true) }),
    }),
  },
} as const;

/**
 * Query parameters of an export: the filters of a breakdown and its groupings, one or two (`by=user,model`). With
 * `interval`, a row is a period of a time series, or a period and a key of the one grouping, and days are those of
 * `timeZone`.
 */
export const ExportQuery = Filters.extend({
  by: BreakdownBy.optional(),
  interval: Interval.optional(),
  timeZone: TimeZone.optional(),
})
  .refine(({ timeZone, interval }) => timeZone === undefined || interval !== undefined, {
    error: 'Expected an interval with a time zone: without one, days are days of UTC.',
    path: ['timeZone'],
  })
  .refine(({ by, interval }) => typeof by !== 'object' || interval === undefined, {
    error: 'Expected at most one grouping with an interval.',
    path: ['by'],
  });
export type ExportQuery = z.infer<typeof ExportQuery>;

const USAGE_FILES = [
  'text/csv',
  'application/json',
  'application/x-ndjson',
  'application/vnd.apache.parquet',
  'application/vnd.openxmlformats-officedocument.spreadsheetml.sheet',
];

export const analyticsEndpoints = [
  {
    method: 'GET',
    path: '/export/usage.{format}',
    summary: 'Downloads the usage of a range as a file.',
    access: 'read',
    group: 'files',
    parameters: { format: ['csv', 'json', 'ndjson', 'parquet', 'xlsx'] },
    query: ExportQuery,
    produces: USAGE_FILES,
  },
  {
    method: 'GET',
    path: '/export/meter.{format}',
    summary: 'Downloads a meter by windows of time and by its dimensions as a file.',
    access: 'read',
    group: 'files',
    parameters: { format: ['csv', 'json', 'ndjson', 'parquet', 'xlsx'] },
    query: MeterQuery,
    omit: ['filters'],
    produces: USAGE_FILES,
  },
  {
    method: 'GET',
    path: '/export/events.{format}',
    summary: 'Downloads the events of a range as a file, with all metrics and properties.',
    access: 'read',
    group: 'files',
    parameters: { format: ['csv', 'ndjson'] },
    query: Filters,
    produces: ['text/csv', 'application/x-ndjson'],
  },
  {
    method: 'GET',
    path: '/metrics/usage',
    summary: 'Returns the usage of today and of this month per merchant and metric, for Prometheus.',
    access: 'read',
    group: 'metrics',
    produces: ['text/plain'],
  },
] as const satisfies readonly Endpoint[];

export type AnalyticsRouter = RouterOf<typeof analytics>;
