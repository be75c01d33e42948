import { z } from 'zod';
import { mutation, query, subscription } from './contract.ts';
import { MerchantId, record } from './entry.ts';
import { Quantity } from './quantity.ts';
import { Cursor, text } from './text.ts';
import { StoredDay, StoredTime } from './time.ts';

export const RealtimeType = z.enum(['COUNTER', 'GAUGE', 'HISTOGRAM', 'RATE']);
export type RealtimeType = z.infer<typeof RealtimeType>;

const Name = z.string().regex(/^[a-zA-Z][a-zA-Z0-9_.:-]{0,99}$/, 'Expected 1 to 100 of A-Z a-z 0-9 _ . : -');
const Labels = record(8, z.string().regex(/^[a-zA-Z_][a-zA-Z0-9_]{0,63}$/), text(128).normalize('NFC'));

/** An exact decimal with at most 15 digits before the point and 9 after it; a JSON number is taken as it prints. */
const Amount = z
  .union([z.string(), z.number().transform(String)])
  .refine(
    (text) => /^-?(0|[1-9]\d{0,14})(\.\d{1,9})?$/.test(text),
    'Expected a decimal of at most 15 and 9 digits, such as "2.5"',
  )
  .meta({ examples: ['2.5'] });

/** Observations of one call. */
const MAX_VALUES = 1_000;

const Window = z.number().int().min(1).max(86_400);
const target = { name: Name, labels: Labels.optional(), merchantId: MerchantId.optional() };
const done = z.object({ ok: z.literal(true) });

/** The current state of one series; its fields depend on its type. */
export const RealtimeValue = z.object({
  name: z.string(),
  type: RealtimeType,
  labels: z.record(z.string(), z.string()),
  asOf: StoredTime,
  /** Counters and gauges, exact. */
  value: Quantity.optional(),
  unit: z.string().optional(),
  /**
   * Histograms and rates: the seconds that the figures cover, to the millisecond. Figures cover whole steps of a 30th
   * of the series' window, so up to a step more than asked.
   */
  windowSeconds: z.number().optional(),
  count: Quantity.optional(),
  /** Histograms; null without observations. min, max and mean are exact (mean to 9 decimals). */
  min: Quantity.nullable().optional(),
  max: Quantity.nullable().optional(),
  mean: Quantity.nullable().optional(),
  /** Within 1 % of the value observed at that rank. */
  p50: Quantity.nullable().optional(),
  p90: Quantity.nullable().optional(),
  p95: Quantity.nullable().optional(),
  p99: Quantity.nullable().optional(),
  /** Rates: count / windowSeconds, to 6 decimals. */
  perSecond: Quantity.optional(),
});
export type RealtimeValue = z.infer<typeof RealtimeValue>;

const look = z.strictObject({ ...target, windowSeconds: Window.optional() });

export const realtime = {
  /** Adds to a counter; `by` may be negative. */
  increment: mutation({
    summary: 'Adds to a realtime counter.',
    access: 'record',
    input: z.strictObject({ ...target, by: Amount.default('1') }),
    output: done,
  }),
  gauge: mutation({
    summary: 'Sets a realtime gauge.',
    access: 'record',
    input: z.strictObject({ ...target, value: Amount, unit: text(32).optional() }),
    output: done,
  }),
  /** Adds a value to a histogram, or up to 1000. The first point of a series fixes its window (default 300 s). */
  observe: mutation({
    summary: 'Adds values to a realtime histogram.',
    access: 'record',
    input: z
      .strictObject({
        ...target,
        value: Amount.optional(),
        values: z.array(Amount).min(1).max(MAX_VALUES).optional(),
        windowSeconds: Window.optional(),
      })
      .refine(({ value, values }) => (value === undefined) !== (values === undefined), 'Expected value or values')
      .meta({ examples: [{ name: 'checkout.seconds', values: ['0.25', '1.5'] }] })
      .transform(({ value, values, ...series }) => ({ ...series, values: values ?? [value!] })),
    output: done,
  }),
  /** Counts events of a rate. The first point of a series fixes its window (default 60 s). */
  mark: mutation({
    summary: 'Counts events of a realtime rate.',
    access: 'record',
    input: z.strictObject({
      ...target,
      count: z.number().int().min(1).max(1_000_000_000).default(1),
      windowSeconds: Window.optional(),
    }),
    output: done,
  }),
  get: query({ summary: 'Returns one realtime metric.', access: 'read', input: look, output: RealtimeValue }),
  list: query({
    summary: 'Lists realtime metrics with their labels.',
    access: 'read',
    input: z
      .strictObject({
        merchantId: MerchantId.optional(),
        limit: z.number().int().min(1).max(1000).default(1000),
        cursor: Cursor.optional(),
      })
      .prefault({}),
    output: z.object({
      rows: z.array(z.object({ name: z.string(), type: RealtimeType, labels: z.record(z.string(), z.string()) })),
      nextCursor: z.string().nullable(),
    }),
  }),
  /** Compares realtime metrics with their copies, and mirrors of usage with the rollups, and corrects them. */
  reconcile: mutation({
    summary: 'Compares realtime metrics with their copies and corrects them.',
    access: 'admin',
    platform: true,
    input: z.strictObject({}).prefault({}),
    output: z.object({
      merchants: z.number().int(),
      /** Values restored from their copies, because Redis had lost them or had older ones. */
      restored: z.number().int(),
      /**
       * Counters `usage.<metric type>` of closed days, labelled with their `date`, that differed from what was counted.
       */
      corrected: z.array(
        z.object({ merchantId: z.string().nullable(), name: z.string(), date: StoredDay, was: Quantity, is: Quantity }),
      ),
      /** False if usage-ingest could not flush everything, so mirrors were not compared. */
      usageCompared: z.boolean(),
      forgotten: z.number().int(),
    }),
  }),
  /** Sends the value at once and after each change, until either side ends the stream. */
  watch: subscription({
    summary: 'Streams a realtime metric as it changes, as server-sent events.',
    access: 'read',
    input: look,
    output: RealtimeValue,
  }),
} as const;
