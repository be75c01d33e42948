import { type Day, MEASURES, type Measure } from '@tally/contracts';
import { z } from 'zod';

/** Parses bigint and numeric columns, which arrive as text, to bigint. No other code does. */
export const Units = z
  .string()
  .regex(/^-?\d+$/)
  .transform(BigInt);

/** `date` columns arrive as their text. */
export const DateText = z.string().regex(/^\d{4}-\d{2}-\d{2}$/);

export const MeasureRow = Object.fromEntries(MEASURES.map((name) => [name, Units])) as Record<Measure, typeof Units>;

/** `timestamptz` columns arrive as Date. */
export const Moment = z.date().transform((date) => date.toISOString());

/** A day of a merchant: what counting marks, and reconciliation compares. */
export type MerchantDay = { merchantId: string; date: Day };

/** The sum of a metric type on a merchant's day. */
export const MetricSum = z
  .object({ merchant_id: z.string(), date: DateText, metric_type: z.string(), metric_value: Units })
  .transform(({ merchant_id, date, metric_type, metric_value }) => ({
    merchantId: merchant_id,
    date,
    metricType: metric_type,
    units: metric_value,
  }));
