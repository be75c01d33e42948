import { z } from 'zod';
import { mutation, query } from './contract.ts';
import { Dimension, MerchantId, record } from './entry.ts';
import { Quantity } from './quantity.ts';
import { Cursor, label, storable, text } from './text.ts';
import { Day, StoredDay, StoredTime } from './time.ts';

export const MetricKind = z.enum(['COUNT', 'SUM', 'AVERAGE', 'DISTINCT_COUNT', 'PERCENTILE', 'RATIO', 'MAX', 'MIN']);
export type MetricKind = z.infer<typeof MetricKind>;

export const MetricVisibility = z.enum(['PRIVATE', 'TEAM', 'ORGANIZATION', 'PUBLIC']);
export type MetricVisibility = z.infer<typeof MetricVisibility>;

export const MetricSource = z.enum(['events', 'usage', 'daily_metrics', 'weekly_metrics', 'monthly_metrics']);
export type MetricSource = z.infer<typeof MetricSource>;

/** How a formula without an aggregate is summed up. */
export const AggregationMethod = z.enum(['COUNT', 'COUNT_DISTINCT', 'SUM', 'AVG', 'MIN', 'MAX']);
export type AggregationMethod = z.infer<typeof AggregationMethod>;

const StoredValue = z.union([z.string(), z.number(), z.boolean()]);

const Column = z.string().regex(/^[a-z][a-z_]{0,63}$/, 'Expected the name of a column');
const FilterValue = z.union([Dimension, z.number().finite(), z.boolean()]);

/** 50 filters of 1,000 values, and what is beside them. */
const MAX_FILTER_ITEMS = 60_000;

const fields = {
  name: label(200),
  description: storable(2000).optional(),
  metricType: MetricKind,
  dataSource: MetricSource,
  /** An SQL expression of columns, aggregates, COALESCE, NULLIF, CASE, arithmetic and comparisons. */
  calculationFormula: storable(2000).min(1),
  /** Columns to group by. */
  dimensions: z.array(Column).max(5).optional(),
  /** `{ column: value | [values] }`; all must hold. `unknown` asks for rows without the dimension. */
  filters: record(50, Column, z.union([FilterValue, z.array(FilterValue).min(1).max(1000)])).optional(),
  /** For a formula without an aggregate; default: what metricType says. */
  aggregationMethod: AggregationMethod.optional(),
  visibility: MetricVisibility,
  teamId: MerchantId.optional(),
};

const Fields = z.strictObject(fields);
export type MetricFields = z.infer<typeof Fields>;

/** A definition as it was stored, under whatever limits there were then. */
const StoredFields = z.object({
  name: z.string(),
  description: z.string().optional(),
  metricType: MetricKind,
  dataSource: MetricSource,
  calculationFormula: z.string(),
  dimensions: z.array(z.string()).optional(),
  filters: z.record(z.string(), z.union([StoredValue, z.array(StoredValue)])).optional(),
  aggregationMethod: AggregationMethod.optional(),
  visibility: MetricVisibility,
  teamId: z.string().optional(),
});

export const MetricDefinition = StoredFields.extend({
  id: z.string(),
  version: z.number().int(),
  /** The key that made it. */
  ownerId: z.string(),
  /** Null: the platform's. */
  merchantId: z.string().nullable(),
  uses: z.number().int(),
  lastUsedAt: StoredTime.nullable(),
  createdAt: StoredTime,
  updatedAt: StoredTime,
});
export type MetricDefinition = z.infer<typeof MetricDefinition>;

export const MetricCost = z.enum(['low', 'medium', 'high']);
export type MetricCost = z.infer<typeof MetricCost>;

const Rows = z.array(z.object({ dimensions: z.record(z.string(), z.string()), value: Quantity.nullable() }));

/** `value` is over all, `rows` by the dimensions, largest first; null where a division by zero or no row left nothing. */
export const MetricResult = z.object({
  value: Quantity.nullable(),
  rows: Rows,
  cost: MetricCost,
  /** The planner's cost of the statement. */
  planCost: z.number(),
  durationMs: z.number(),
});
export type MetricResult = z.infer<typeof MetricResult>;

const Id = z.uuid();
/** As the database counts them. */
const Version = z.number().int().min(1).max(2_147_483_647);
const range = { startDate: Day, endDate: Day };
/** Whose usage: callers bound to a merchant see its alone; others may name one, or none for all. */
const scope = { merchantId: MerchantId.optional() };
const draft = z.strictObject({
  ...fields,
  name: fields.name.optional(),
  visibility: MetricVisibility.optional(),
  ...range,
  ...scope,
});
const page = { limit: z.number().int().min(1).max(200).default(50), cursor: Cursor.optional() };

export const custom = {
  create: mutation({
    maxItems: MAX_FILTER_ITEMS,
    access: 'define',
    audited: true,
    input: Fields.extend(scope),
    output: MetricDefinition,
  }),
  /** Makes a new version of the changed fields; the old ones stay readable and computable. Owner and admins only. */
  update: mutation({
    access: 'define',
    maxItems: MAX_FILTER_ITEMS,
    audited: true,
    input: Fields.partial().extend({ id: Id }),
    output: MetricDefinition,
  }),
  /** Computes a definition without saving it. */
  test: mutation({ access: 'define', maxItems: MAX_FILTER_ITEMS, input: draft, output: MetricResult }),
  estimate: mutation({
    maxItems: MAX_FILTER_ITEMS,
    access: 'define',
    input: draft,
    output: z.object({ cost: MetricCost, planCost: z.number(), allowed: z.boolean() }),
  }),
  calculate: mutation({
    access: 'define',
    input: z.strictObject({ id: Id, version: Version.optional(), ...range, ...scope }),
    output: MetricResult.extend({ version: z.number().int() }),
  }),
  get: query({
    access: 'read',
    input: z.strictObject({ id: Id, version: Version.optional() }),
    output: MetricDefinition,
  }),
  list: query({
    access: 'read',
    input: z.strictObject({ ...page, search: text(200).optional() }).prefault({}),
    output: z.object({ rows: z.array(MetricDefinition), nextCursor: z.string().nullable() }),
  }),
  versions: query({
    access: 'read',
    input: z.strictObject({ id: Id }),
    output: z.object({
      rows: z.array(
        z.object({ version: z.number().int(), definition: StoredFields, createdBy: z.string(), createdAt: StoredTime }),
      ),
      nextCursor: z.null(),
    }),
  }),
  /** Values computed before, newest first. */
  values: query({
    access: 'read',
    input: z.strictObject({ id: Id, ...scope, limit: page.limit }),
    output: z.object({
      rows: z.array(
        z.object({
          version: z.number().int(),
          merchantId: z.string().nullable(),
          periodType: z.enum(['DAILY', 'WEEKLY', 'MONTHLY', 'CUSTOM']),
          startDate: StoredDay,
          endDate: StoredDay,
          value: Quantity.nullable(),
          rows: Rows,
          cost: MetricCost,
          durationMs: z.number(),
          calculatedBy: z.string(),
          calculatedAt: StoredTime,
        }),
      ),
      nextCursor: z.null(),
    }),
  }),
  /** What was done with a definition, newest first. Owner and admins only. */
  audit: query({
    access: 'read',
    input: z.strictObject({ id: Id, ...page }),
    output: z.object({
      rows: z.array(
        z.object({
          at: StoredTime,
          action: z.string(),
          version: z.number().int().nullable(),
          callerId: z.string(),
          outcome: z.string(),
          details: z.record(z.string(), z.unknown()),
        }),
      ),
      nextCursor: z.string().nullable(),
    }),
  }),
  remove: mutation({
    access: 'define',
    audited: true,
    input: z.strictObject({ id: Id }),
    output: z.object({ id: z.string(), removed: z.literal(true) }),
  }),
} as const;
