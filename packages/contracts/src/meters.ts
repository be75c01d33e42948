import { z } from 'zod';
import { mutation, query } from './contract.ts';
import { Dimension, inBothForms, MerchantId, MetricType, record } from './entry.ts';
import type { PricedMeasure } from './measures.ts';
import { label, name, text } from './text.ts';
import { Day, StoredDay, StoredTime } from './time.ts';

export const MeterAggregation = z.enum(['SUM', 'COUNT', 'UNIQUE', 'MAX', 'MIN', 'LATEST', 'PERCENTILE']);
export type MeterAggregation = z.infer<typeof MeterAggregation>;

/** The key of a meter. Keys of built-in meters are taken. */
export const MeterKey = z
  .string()
  .regex(
    /^[A-Za-z][A-Za-z0-9_.-]{0,63}$/,
    'Expected a letter and up to 63 more of A-Z a-z 0-9 _ . -, such as "gpu_hours"',
  )
  .meta({ examples: ['gpu_hours'] });

/** The largest number of dimensions of a meter. */
export const MAX_METER_DIMENSIONS = 4;
/** The largest number of active meters over all merchants. Each event may count in all of them. */
export const MAX_METERS = 200;
/** The property that `eventType` is compared with. Sources store the type of a foreign event there. */
export const EVENT_TYPE_PROPERTY = 'event_type';

const DIMENSION = /^(?:user|apiKey|model|provider|property:.{1,64})$/u;
const EXPECTED_DIMENSION = 'Expected user, apiKey, model, provider or property:<name>';

/** A dimension of a meter: a built-in one, or a property. */
export const MeterDimension = name(73)
  .refine((value) => DIMENSION.test(value), EXPECTED_DIMENSION)
  .meta({ examples: ['model'] });
export type MeterDimension = string;

/** Conditions on an event: every dimension has one of its listed values; `status` is `success` or `failure`. */
const MeterFilters = record(
  8,
  name(73).refine((value) => value === 'status' || DIMENSION.test(value), `${EXPECTED_DIMENSION}, or status`),
  z.array(Dimension).min(1).max(100).overwrite(inBothForms),
)
  .superRefine((filters, ctx) => {
    for (const [name, values] of Object.entries(filters)) {
      const refuse = (message: string) => ctx.addIssue({ code: 'custom', path: [name], message });
      if (name === 'status') {
        if (values.some((value) => value !== 'success' && value !== 'failure')) refuse('Expected success or failure');
      } else if (values.includes('')) refuse('Expected a value; `unknown` stands for events without one');
    }
  })
  .meta({ examples: [{ provider: ['openai'] }] });

const PropertyName = name(73)
  .refine((value) => value.length > 0, 'Expected at least 1 character')
  .meta({ examples: ['duration'] });

const unique = (values: readonly string[]) => new Set(values).size === values.length;

const Definition = z.strictObject({
  key: MeterKey,
  /** Counts only events of this merchant; absent: of every merchant. */
  merchantId: MerchantId.optional(),
  name: label(200).optional(),
  /** The unit, such as `GPU-hours`; for display only. */
  unit: label(50).optional(),
  /** Decimals of the quantity. The scale belongs to the metric type, for all merchants and for ever. */
  scale: z.number().int().min(0).max(9).optional(),
  aggregation: MeterAggregation,
  /** The aggregated metric type; or use `valueProperty`. */
  metricType: MetricType.optional(),
  /** The property with the value. UNIQUE also takes `user`, `apiKey`, `model`, `provider` or `property:<name>`. */
  valueProperty: PropertyName.optional(),
  /** Counts only events whose property `event_type` has this value. */
  eventType: text(256).min(1).optional(),
  filters: MeterFilters.optional(),
  dimensions: z
    .array(MeterDimension)
    .max(MAX_METER_DIMENSIONS)
    .refine(unique, 'Expected each dimension once')
    .optional(),
});

/** The definition of a meter. Only name and unit can change. */
export const MeterDefinition = Definition.superRefine(({ aggregation, metricType, valueProperty, scale }, ctx) => {
  const refuse = (field: string, message: string) => ctx.addIssue({ code: 'custom', path: [field], message });
  if (metricType !== undefined && valueProperty !== undefined)
    refuse('valueProperty', 'Expected metricType or valueProperty, not both');
  if (aggregation === 'COUNT') {
    if (metricType !== undefined) refuse('metricType', 'COUNT adds up the calls of events; leave metricType out');
    if (valueProperty !== undefined) refuse('valueProperty', 'COUNT adds up the calls of events; leave it out');
  } else if (aggregation === 'UNIQUE') {
    if (metricType !== undefined) refuse('metricType', 'UNIQUE counts values of a property or a dimension');
    if (valueProperty === undefined) refuse('valueProperty', 'Expected the property or the dimension to count');
  } else if (metricType === undefined && valueProperty === undefined)
    refuse('metricType', `${aggregation} needs metricType or valueProperty`);
  if ((aggregation === 'COUNT' || aggregation === 'UNIQUE') && scale !== undefined && scale !== 0)
    refuse('scale', `${aggregation} is a whole number; leave scale out`);
});
z.globalRegistry.add(MeterDefinition, {
  examples: [
    {
      key: 'gpu_hours',
      name: 'GPU hours',
      unit: 'h',
      scale: 2,
      aggregation: 'SUM',
      metricType: 'gpu_hours',
      dimensions: ['user', 'property:region'],
    },
  ],
});
export type MeterDefinition = z.infer<typeof MeterDefinition>;

export const Meter = z.object({
  /** Null for built-in meters. */
  id: z.string().nullable(),
  key: z.string(),
  /** Null: for every merchant. */
  merchantId: z.string().nullable(),
  name: z.string(),
  unit: z.string().nullable(),
  scale: z.number().int(),
  aggregation: MeterAggregation,
  metricType: z.string().nullable(),
  valueProperty: z.string().nullable(),
  eventType: z.string().nullable(),
  filters: z.record(z.string(), z.array(z.string())),
  dimensions: z.array(z.string()),
  /** Starts at 1; each change adds 1. */
  version: z.number().int(),
  createdAt: StoredTime.nullable(),
  createdBy: z.string().nullable(),
  updatedAt: StoredTime.nullable(),
  /** The history computed at creation from events in the journal; `from` is its first day. */
  history: z.object({
    from: StoredDay.nullable(),
    days: z.number().int(),
    daysDone: z.number().int(),
  }),
});
export type Meter = z.infer<typeof Meter>;

const MeterName = z.strictObject({ key: MeterKey, merchantId: MerchantId.optional() });

/** Meters: named quantities that are kept for years, by dimensions of their own. */
export const meters = {
  /**
   * Creates a meter and starts computing its history from the journal. Throws CONFLICT if the key is taken, or if the
   * metric type has another scale.
   */
  create: mutation({
    summary: 'Creates a meter; its history is computed from the journal.',
    access: 'admin',
    input: MeterDefinition,
    output: Meter,
  }),
  update: mutation({
    summary: 'Changes the name or the unit of a meter.',
    access: 'admin',
    input: MeterName.extend({ name: label(200).optional(), unit: label(50).nullable().optional() }),
    output: Meter,
  }),
  /** Built-in meters first, then those for every merchant, then those of one merchant. */
  list: query({
    summary: 'Lists the meters, built-in ones among them.',
    access: 'read',
    input: z.strictObject({ merchantId: MerchantId.optional() }).prefault({}),
    output: z.object({ rows: z.array(Meter), nextCursor: z.null() }),
  }),
  get: query({
    summary: 'Returns a meter, its versions and how far its history is computed.',
    access: 'read',
    input: MeterName,
    output: Meter.extend({
      versions: z.array(
        z.object({
          version: z.number().int(),
          name: z.string(),
          unit: z.string().nullable(),
          createdAt: StoredTime,
          createdBy: z.string(),
        }),
      ),
    }),
  }),
  /** The scale of its metric type stays declared. */
  remove: mutation({
    summary: 'Removes a meter and its sums; the events stay.',
    access: 'admin',
    input: MeterName,
    output: z.object({ removed: z.literal(true) }),
  }),
  /** Days whose events were dropped from the journal stay as they are. */
  rebuild: mutation({
    summary: 'Computes the sums of a meter again from the journal.',
    access: 'admin',
    input: MeterName.extend({ startDate: Day, endDate: Day }),
    output: z.object({ merchantDays: z.number().int(), closedDays: z.number().int(), durationMs: z.number().int() }),
  }),
} as const;

const builtIn = (key: string, name: string, unit: string, scale = 0, metricType: string | null = key): Meter => ({
  id: null,
  key,
  merchantId: null,
  name,
  unit,
  scale,
  aggregation: 'SUM',
  metricType,
  valueProperty: null,
  eventType: null,
  filters: {},
  dimensions: ['user', 'apiKey', 'model', 'provider'],
  version: 1,
  createdAt: null,
  createdBy: null,
  updatedAt: null,
  history: { from: null, days: 0, daysDone: 0 },
});

/** Meters of what Tally priced, or knew no price for; no metric type has the name of one. */
const priced = (key: PricedMeasure, name: string, unit: string, scale = 0) => builtIn(key, name, unit, scale, null);

/** Meters that every Tally has: the measures of model calls, and what Tally priced. */
export const BUILT_IN_METERS: readonly Meter[] = [
  builtIn('requests', 'Requests', 'requests'),
  builtIn('failed_requests', 'Failed requests', 'requests'),
  builtIn('prompt_tokens', 'Prompt tokens', 'tokens'),
  builtIn('completion_tokens', 'Completion tokens', 'tokens'),
  builtIn('total_tokens', 'Tokens', 'tokens'),
  builtIn('cost', 'Cost', 'USD', 9),
  priced('priced_events', 'Priced events', 'events'),
  priced('priced_requests', 'Priced requests', 'requests'),
  priced('priced_input_tokens', 'Priced input tokens', 'tokens'),
  priced('priced_cached_tokens', 'Priced cached input tokens', 'tokens'),
  priced('priced_cache_write_tokens', 'Priced cache write tokens', 'tokens'),
  priced('priced_output_tokens', 'Priced output tokens', 'tokens'),
  priced('priced_reasoning_tokens', 'Priced reasoning tokens', 'tokens'),
  priced('priced_cost', 'Cost that Tally found', 'USD', 9),
];
