import { z } from 'zod';

/** bigint and numeric columns arrive as text and become bigint here, nowhere else. */
export const Units = z
  .string()
  .regex(/^-?\d+$/)
  .transform(BigInt);

/** `date` columns arrive as their text. */
export const DateText = z.string().regex(/^\d{4}-\d{2}-\d{2}$/);

export const MeasureRow = {
  requests: Units,
  failed_requests: Units,
  prompt_tokens: Units,
  completion_tokens: Units,
  cost: Units,
};

/** `timestamptz` columns arrive as Date. */
export const Moment = z.date().transform((date) => date.toISOString());
