import { z } from 'zod';
import { mutation, query, type RouterOf } from './contract.ts';
import { Dimension, MerchantId, MetricType } from './entry.ts';
import { Quantity } from './quantity.ts';
import { Day, Time } from './time.ts';

const list = <T extends z.ZodType>(item: T) => z.array(item).max(1000).optional();

/** Which entries a question is about. All given filters hold at once; an empty list is no filter. */
export const Filters = z.strictObject({
  startDate: Day,
  endDate: Day,
  merchantIds: list(MerchantId),
  userIds: list(Dimension),
  models: list(Dimension),
  providers: list(Dimension),
  apiKeys: list(Dimension),
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
  /** Percent with 2 decimals; null without requests. */
  successRate: z.number().nullable(),
});
export type Measures = z.infer<typeof Measures>;

/** What an answer covers. */
export const Coverage = z.object({
  /** cache: closed days only; live: today only; mixed: both; none: no source answered. */
  dataSource: z.enum(['cache', 'live', 'mixed', 'none']),
  /** Everything acknowledged before this moment is in the answer; null where nothing is known. */
  asOf: Time.nullable(),
  /** False where a source failed. */
  complete: z.boolean(),
});
export type Coverage = z.infer<typeof Coverage>;

export const GroupBy = z.enum(['user', 'model', 'provider', 'apiKey', 'merchant']);
export type GroupBy = z.infer<typeof GroupBy>;

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

export const BreakdownRow = Measures.extend({
  key: z.string(),
  label: z.string(),
  details: z.record(z.string(), z.unknown()),
});
export type BreakdownRow = z.infer<typeof BreakdownRow>;

/** analytics-api: answers questions about usage. */
export const analytics = {
  analytics: {
    summary: query({
      access: 'read',
      input: Filters,
      output: z.object({
        period: z.object({ startDate: Day, endDate: Day, days: z.number().int() }),
        totals: Measures,
        /** Users with at least one request; entries without a user are no user. */
        activeUsers: z.number().int(),
        byDay: z.array(Measures.extend({ date: Day })),
        topUsers: z.array(BreakdownRow),
        topModels: z.array(BreakdownRow),
        coverage: Coverage,
      }),
    }),
    breakdown: query({
      access: 'read',
      input: Filters.extend({
        by: GroupBy,
        sortBy: SortBy.default('cost'),
        order: z.enum(['asc', 'desc']).default('desc'),
        limit: z.number().int().min(1).max(200).default(50),
        cursor: z.string().max(1000).optional(),
      }),
      output: z.object({
        rows: z.array(BreakdownRow),
        totals: Measures,
        total: z.number().int(),
        nextCursor: z.string().nullable(),
        coverage: Coverage,
      }),
    }),
    merchantUsage: query({
      access: 'read',
      input: z.strictObject({
        merchantId: MerchantId,
        startDate: Day,
        endDate: Day,
        metricTypes: z.array(MetricType).max(100).optional(),
      }),
      output: z.object({
        rows: z.array(z.object({ merchantId: z.string(), date: Day, metricType: z.string(), metricValue: Quantity })),
        nextCursor: z.null(),
        coverage: Coverage,
      }),
    }),
    refresh: mutation({
      access: 'read',
      input: z.strictObject({}),
      output: z.object({ recordsAggregated: z.number().int(), complete: z.boolean(), refreshedAt: Time }),
    }),
  },
} as const;

export type AnalyticsRouter = RouterOf<typeof analytics>;
