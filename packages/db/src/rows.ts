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
