import { z } from 'zod';
import { mutation, query } from './contract.ts';
import { Dimension, inBothForms, MerchantId, record } from './entry.ts';
import { Quantity } from './quantity.ts';
import { Cursor, label, SearchText, storable, text, Uuid } from './text.ts';
import { Day, Drained, StoredDay, StoredTime } from './time.ts';

export const MetricKind = z.enum(['COUNT', 'SUM', 'AVERAGE', 'DISTINCT_COUNT', 'PERCENTILE', 'RATIO', 'MAX', 'MIN']);
export type MetricKind = z.infer<typeof MetricKind>;

export const MetricVisibility = z.enum(['PRIVATE', 'TEAM', 'ORGANIZATION', 'PUBLIC']);
export type MetricVisibility = z.infer<typeof MetricVisibility>;

/** Built-in data sources. `custom.sources.register` adds others. */
export const BuiltInSource = z.enum(['events', 'usage', 'daily_metrics', 'weekly_metrics', 'monthly_metrics']);
export type BuiltInSource = z.infer<typeof BuiltInSource>;

/** The name of a data source. */
export const MetricSource = z
  .string()
  .regex(/^[a-z][a-z0-9_]{0,62}$/, 'Expected the name of a data source, such as "events"');

/** The aggregation applied to a formula that has none. */
export const AggregationMethod = z.enum(['COUNT', 'COUNT_DISTINCT', 'SUM', 'AVG', 'MIN', 'MAX']);
export type AggregationMethod = z.infer<typeof AggregationMethod>;

/** Metric types without a method of the same name: their formulas contain the aggregates. */
const METHOD_OF: Readonly<Record<string, AggregationMethod | undefined>> = {
  AVERAGE: 'AVG',
  DISTINCT_COUNT: 'COUNT_DISTINCT',
  PERCENTILE: undefined,
  RATIO: undefined,
};

/** A method or the name of a metric type, in any case. */
const GivenMethod = text(32).transform((given, ctx) => {
  const name = given.toUpperCase();
  if (Object.hasOwn(METHOD_OF, name)) return METHOD_OF[name];
  const method = AggregationMethod.safeParse(name);
  if (method.success) return method.data;
  const names = [...AggregationMethod.options, ...Object.keys(METHOD_OF)];
  ctx.addIssue({ code: 'custom', message: `Expected one of ${names.join(', ')}, in any case` });
  return z.NEVER;
});

/** The kind of a column's values. It determines which operations a formula may use. */
export const ColumnType = z.enum(['number', 'text', 'boolean', 'date', 'time']);
export type ColumnType = z.infer<typeof ColumnType>;

/** Other names of these kinds, in SQL and elsewhere. */
const COLUMN_TYPES: Readonly<Record<ColumnType, readonly string[]>> = {
  number: ['numeric', 'decimal', 'int', 'integer', 'bigint', 'smallint', 'float', 'double precision', 'real', 'money'],
  text: ['string', 'varchar', 'character varying', 'char', 'uuid', 'enum'],
  boolean: ['bool'],
  date: ['day'],
  time: ['timestamp', 'timestamptz', 'datetime', 'timestamp with time zone', 'timestamp without time zone'],
};

const GivenType = text(32).transform((given, ctx) => {
  const name = given.toLowerCase();
  const type = ColumnType.options.find((each) => each === name || COLUMN_TYPES[each].includes(name));
  if (type) return type;
  ctx.addIssue({ code: 'custom', message: `Expected one of ${ColumnType.options.join(', ')}` });
  return z.NEVER;
});

const Column = z.string().regex(/^[A-Za-z_][A-Za-z0-9_]{0,62}$/, 'Expected the name of a column');
const StoredValue = z.union([z.string(), z.number(), z.boolean()]);

const FilterValue = z.union([Dimension, z.number().finite(), z.boolean()]);
/** Texts select stored ones in both forms. */
const FilterValues = z.union([FilterValue, z.array(FilterValue).min(1).max(1000)]).overwrite((given) => {
  const values = inBothForms(Array.isArray(given) ? given : [given]);
  return Array.isArray(given) || values.length > 1 ? values : given;
});

/** Room for 50 filters of 1,000 values and the other fields. */
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
  /** `{ column: value | [values] }`; all must hold. `unknown` selects rows without the dimension. */
  filters: record(50, Column, FilterValues).optional(),
  /** The aggregation of a formula that has none; default: that of `metricType`. */
  aggregationMethod: GivenMethod.optional(),
  visibility: MetricVisibility,
  teamId: MerchantId.optional(),
};

const Fields = z.strictObject(fields);
export type MetricFields = z.infer<typeof Fields>;

/** A definition as stored. The limits may have been others at that time. */
const StoredFields = z.object({
  name: z.string(),
  description: z.string().optional(),
  metricType: MetricKind,
  dataSource: z.string(),
  calculationFormula: z.string(),
  dimensions: z.array(z.string()).optional(),
  filters: z.record(z.string(), z.union([StoredValue, z.array(StoredValue)])).optional(),
  aggregationMethod: AggregationMethod.optional(),
  visibility: MetricVisibility,
  teamId: z.string().optional(),
});

/**
 * A definition as the caller may see it. Of a PUBLIC metric, callers of other merchants see only name, description,
 * type, source and formula.
 */
export const MetricDefinition = StoredFields.extend({
  id: z.string(),
  version: z.number().int(),
  /** The id of the key that created it. */
  ownerId: z.string().optional(),
  /** Null: the metric belongs to the platform. */
  merchantId: z.string().nullable().optional(),
  uses: z.number().int().optional(),
  lastUsedAt: StoredTime.nullable().optional(),
  createdAt: StoredTime.optional(),
  updatedAt: StoredTime.optional(),
});
export type MetricDefinition = z.infer<typeof MetricDefinition>;

export const MetricCost = z.enum(['low', 'medium', 'high']);
export type MetricCost = z.infer<typeof MetricCost>;

const Rows = z.array(z.object({ dimensions: z.record(z.string(), z.string()), value: Quantity.nullable() }));

/** `value` is over all rows; `rows` are by dimensions, largest first. Null after a division by zero or without rows. */
export const MetricResult = z.object({
  value: Quantity.nullable(),
  rows: Rows,
  cost: MetricCost,
  /** The planner's cost of the statement, plus the cost of sorts inside its aggregates. */
  planCost: z.number(),
  durationMs: z.number(),
  coverage: Drained,
});
export type MetricResult = z.infer<typeof MetricResult>;

/** A Postgres `integer`. */
const Version = z.number().int().min(1).max(2_147_483_647);
const range = { startDate: Day, endDate: Day };
/** The merchant whose usage is computed: the caller's, or the named one. Null: all merchants. */
const scope = { merchantId: MerchantId.optional() };
const draft = z.strictObject({
  ...fields,
  name: fields.name.optional(),
  visibility: MetricVisibility.optional(),
  ...range,
  ...scope,
});

const SourceColumn = z.strictObject({ name: Column, type: GivenType, unit: label(32).optional() });
const DatabaseName = text(63).min(1);
/** A view of the host application as a data source of custom metrics. */
const SourceFields = z.strictObject({
  name: MetricSource,
  /** `view` in the schema `public`, or `schema.view`; case-sensitive. */
  view: text(127).regex(/^[^."]+(\.[^."]+)?$/, 'Expected `view` or `schema.view`'),
  columns: z.array(SourceColumn).min(1).max(200),
  /** The column with the merchant of a row. Without it, only callers bound to no merchant can use the source. */
  merchantColumn: DatabaseName.optional(),
  /** The day or time of a row. `startDate` and `endDate` select by it. */
  dateColumn: DatabaseName,
});
export type MetricSourceFields = z.infer<typeof SourceFields>;
const SourceDefinition = z.object({
  name: z.string(),
  view: z.string(),
  columns: z.array(z.object({ name: z.string(), type: ColumnType, unit: z.string().optional() })),
  merchantColumn: z.string().optional(),
  dateColumn: z.string(),
  createdAt: StoredTime,
});

const page = { limit: z.number().int().min(1).max(200).default(50), cursor: Cursor.optional() };

export const custom = {
  create: mutation({
    summary: 'Creates a custom metric from a formula.',
    rest: [{ method: 'POST', path: '/api/admin/metrics/custom-definitions' }],
    maxItems: MAX_FILTER_ITEMS,
    access: 'define',
    audited: true,
    input: Fields.extend(scope),
    output: MetricDefinition,
  }),
  /**
   * Creates a new version with the changed fields; old versions stay readable and computable. Owner and admins only.
   */
  update: mutation({
    summary: 'Changes a custom metric; the change is a new version.',
    access: 'define',
    merchants: 'own',
    maxItems: MAX_FILTER_ITEMS,
    audited: true,
    input: Fields.partial().extend({ id: Uuid }),
    output: MetricDefinition,
  }),
  /** Computes a definition without saving it. */
  test: mutation({
    summary: 'Computes a definition without saving it.',
    access: 'define',
    maxItems: MAX_FILTER_ITEMS,
    input: draft,
    output: MetricResult,
  }),
  estimate: mutation({
    summary: 'Estimates the cost of a definition without computing it.',
    maxItems: MAX_FILTER_ITEMS,
    access: 'define',
    input: draft,
    output: z.object({ cost: MetricCost, planCost: z.number(), allowed: z.boolean() }),
  }),
  calculate: mutation({
    summary: 'Computes a custom metric over a range.',
    rest: [{ method: 'POST', path: '/api/admin/metrics/calculate' }],
    access: 'define',
    input: z.strictObject({ id: Uuid, version: Version.optional(), ...range, ...scope }),
    output: MetricResult.extend({ version: z.number().int() }),
  }),
  get: query({
    summary: 'Returns the definition of a custom metric.',
    access: 'read',
    merchants: 'own',
    input: z.strictObject({ id: Uuid, version: Version.optional() }),
    output: MetricDefinition,
  }),
  list: query({
    summary: 'Lists custom metrics that the caller may see.',
    rest: [{ method: 'GET', path: '/api/admin/metrics/custom-definitions' }],
    access: 'read',
    merchants: 'own',
    input: z.strictObject({ ...page, search: SearchText.optional() }).prefault({}),
    output: z.object({ rows: z.array(MetricDefinition), nextCursor: z.string().nullable() }),
  }),
  /** Versions, newest first, also of a removed metric. */
  versions: query({
    summary: 'Lists the versions of a custom metric, newest first.',
    access: 'read',
    merchants: 'own',
    input: z.strictObject({ id: Uuid, ...page }),
    output: z.object({
      rows: z.array(
        z.object({
          version: z.number().int(),
          definition: StoredFields,
          createdBy: z.string().optional(),
          createdAt: StoredTime,
        }),
      ),
      nextCursor: z.string().nullable(),
    }),
  }),
  /** Earlier computed values, newest first, also of a removed metric. */
  values: query({
    summary: 'Lists values computed before, newest first.',
    access: 'read',
    input: z.strictObject({ id: Uuid, ...scope, ...page }),
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
      nextCursor: z.string().nullable(),
    }),
  }),
  /** Audit trail of a definition, newest first, also of a removed one. Owner and admins only. */
  audit: query({
    summary: 'Lists the audit trail of a custom metric, newest first.',
    access: 'read',
    merchants: 'own',
    input: z.strictObject({ id: Uuid, ...page }),
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
    summary: 'Removes a custom metric.',
    access: 'define',
    merchants: 'own',
    audited: true,
    input: z.strictObject({ id: Uuid }),
    output: z.object({ id: z.string(), removed: z.literal(true) }),
  }),
  sources: {
    /** Registers a view of the host application as a data source. Registering it again changes nothing. */
    register: mutation({
      summary: 'Registers a view of the host application as a data source of custom metrics.',
      access: 'admin',
      platform: true,
      input: SourceFields,
      output: SourceDefinition,
    }),
    list: query({
      summary: 'Lists registered data sources.',
      access: 'admin',
      platform: true,
      input: z.strictObject({}).prefault({}),
      output: z.object({ rows: z.array(SourceDefinition), nextCursor: z.null() }),
    }),
    /** Metrics of a removed source stay, and can be computed again once the source is registered again. */
    remove: mutation({
      summary: 'Removes a registered data source.',
      access: 'admin',
      platform: true,
      input: z.strictObject({ name: MetricSource }),
      output: z.object({ name: z.string(), removed: z.literal(true) }),
    }),
  },
} as const;
