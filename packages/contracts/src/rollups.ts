import { z } from 'zod';
import { mutation, query, type Rest } from './contract.ts';
import { DimensionValues, MerchantId, MetricType } from './entry.ts';
import { Quantity } from './quantity.ts';
import { Cursor, text } from './text.ts';
import { Day, Drained, StoredDay, StoredTime } from './time.ts';

export const RollupGrain = z.enum(['daily', 'weekly', 'monthly']);
export type RollupGrain = z.infer<typeof RollupGrain>;

export const EntityType = z.enum(['merchant', 'user', 'model', 'provider', 'platform']);
export type EntityType = z.infer<typeof EntityType>;

/** refresh: all stale periods. */
export const JobKind = z.enum(['daily', 'weekly', 'monthly', 'refresh']);
export type JobKind = z.infer<typeof JobKind>;

/** PARTIAL: some of its periods failed; FAILED: all of them. */
export const JobStatus = z.enum(['RUNNING', 'COMPLETED', 'FAILED', 'PARTIAL']);
export type JobStatus = z.infer<typeof JobStatus>;

/** A day in an answer. A period may begin before the first day that a query can name, and end after the last. */
const Period = z.object({ startDate: StoredDay, endDate: StoredDay });
const Failure = z.object({ period: z.string(), message: z.string() });

export const RollupRun = z.object({
  jobId: z.string(),
  status: JobStatus,
  period: Period,
  rowsWritten: z.number().int(),
  durationMs: z.number(),
  /** The first 100 failures. */
  errors: z.array(Failure),
  coverage: Drained,
});
export type RollupRun = z.infer<typeof RollupRun>;

/** A run over many periods; `periods` are those done by this call, in order. */
export const RollupBackfill = RollupRun.extend({
  periods: z.array(RollupRun.omit({ jobId: true, coverage: true })),
});
export type RollupBackfill = z.infer<typeof RollupBackfill>;

/** The value of one metric type for one entity in one period. A value of 0 has no row. */
export const RollupRow = z.object({
  /** Null for rows of the whole platform. */
  merchantId: z.string().nullable(),
  entityType: EntityType,
  /** `unknown` for events without the dimension. */
  entityId: z.string(),
  periodStart: StoredDay,
  periodEnd: StoredDay,
  metricType: z.string(),
  value: Quantity,
  /** value / days of the period, rounded half away from zero: cost to 9 decimals, all others to 6. */
  dailyAverage: Quantity,
  /** The value of the previous period; null if nothing was counted in it. */
  previous: Quantity.nullable(),
  /** (value − previous) / previous in percent with 2 decimals; null without a period before. */
  growthPercent: z.number().nullable(),
  /** Monthly only: the weeks of the month, cut at its ends; weeks without usage are left out. */
  breakdown: z.array(Period.extend({ value: Quantity })).optional(),
});
export type RollupRow = z.infer<typeof RollupRow>;

export const JobRow = z.object({
  id: z.string(),
  kind: JobKind,
  period: Period,
  status: JobStatus,
  rows: z.number().int(),
  periodsDone: z.number().int(),
  periodsTotal: z.number().int(),
  /** Starts at 1; each time a run is taken over from a process that died adds 1. */
  attempts: z.number().int(),
  started: StoredTime,
  finished: StoredTime.nullable(),
  /** Null without an error. */
  error: z.string().nullable(),
});
export type JobRow = z.infer<typeof JobRow>;

export const RollupList = z.strictObject({
  startDate: Day,
  endDate: Day,
  merchantId: MerchantId.optional(),
  entityType: EntityType.optional(),
  entityIds: DimensionValues,
  metricTypes: z.array(MetricType).max(100).optional(),
  limit: z.number().int().min(1).max(1000).default(100),
  cursor: Cursor.optional(),
});
export type RollupList = z.infer<typeof RollupList>;

export const RollupPage = z.object({ rows: z.array(RollupRow), nextCursor: z.string().nullable() });

const grain = {
  /** Computes the period of a day; without a date, the last complete period. */
  run: mutation({
    summary: 'Computes the rollup of the period that a day lies in.',
    access: 'admin',
    platform: true,
    input: z.strictObject({ date: Day.optional() }).prefault({}),
    output: RollupRun,
  }),
  /** Computes every period that a range touches. Any engine continues an interrupted run. */
  backfill: mutation({
    summary: 'Computes the rollups of every period that a range touches.',
    access: 'admin',
    platform: true,
    input: z.strictObject({ startDate: Day, endDate: Day }),
    output: RollupBackfill,
  }),
  /** Rows of the periods that overlap the range. */
  list: query({
    summary: 'Lists rollup rows of the periods that overlap a range.',
    access: 'read',
    input: RollupList,
    output: RollupPage,
  }),
};

const grainAt = (path: string) => {
  const rest: readonly Rest[] = [{ method: 'GET', path: `/api/admin/metrics/${path}` }];
  return { ...grain, list: { ...grain.list, rest } };
};

export const rollups = {
  daily: grainAt('daily'),
  weekly: grainAt('weekly'),
  monthly: grainAt('monthly'),
  /** Computes every complete period that is stale: written to after its computation, or failed. */
  refresh: mutation({
    summary: 'Computes every complete period that is stale.',
    access: 'admin',
    platform: true,
    input: z.strictObject({}).prefault({}),
    output: RollupBackfill.extend({ daysTouched: z.number().int() }),
  }),
} as const;

export const JobName = z.enum([
  'reconcile',
  'daily',
  'afterDaily',
  'weekly',
  'monthly',
  'realtime',
  'refresh',
  'cleanup',
]);
export type JobName = z.infer<typeof JobName>;

/** The scheduled jobs. */
export const jobs = {
  /** Queues a job now, as its schedule does; any engine runs it. */
  run: mutation({
    summary: 'Starts a scheduled job now.',
    access: 'admin',
    platform: true,
    input: z.strictObject({ name: JobName }),
    output: z.object({ id: z.string() }),
  }),
  schedules: query({
    summary: 'Lists scheduled jobs and when they run next.',
    access: 'admin',
    platform: true,
    input: z.strictObject({}).prefault({}),
    output: z.object({
      rows: z.array(z.object({ name: z.string(), pattern: z.string(), next: StoredTime.nullable() })),
      nextCursor: z.null(),
    }),
  }),
  /** Jobs that failed after all attempts; they are kept until they are retried. */
  failed: query({
    summary: 'Lists jobs that failed after all their attempts, newest first.',
    access: 'admin',
    platform: true,
    input: z
      .strictObject({ limit: z.number().int().min(1).max(200).default(50), cursor: Cursor.optional() })
      .prefault({}),
    output: z.object({
      rows: z.array(
        z.object({
          id: z.string(),
          name: z.string(),
          attempts: z.number().int(),
          failedAt: StoredTime.nullable(),
          error: z.string(),
        }),
      ),
      nextCursor: z.string().nullable(),
    }),
  }),
  retry: mutation({
    summary: 'Runs a failed job again.',
    access: 'admin',
    platform: true,
    input: z.strictObject({ id: text(200).min(1) }),
    output: z.object({ id: z.string(), retried: z.literal(true) }),
  }),
} as const;

export const jobLog = query({
  summary: 'Lists runs of rollups, newest first.',
  access: 'read',
  platform: true,
  input: z
    .strictObject({ limit: z.number().int().min(1).max(200).default(50), cursor: Cursor.optional() })
    .prefault({}),
  output: z.object({ rows: z.array(JobRow), nextCursor: z.string().nullable() }),
});
