import { z } from 'zod';
import { mutation, query } from './contract.ts';
import { Day, Time } from './time.ts';

const DayGroup = z.object({
  requests: z.string(),
  totalTokens: z.string(),
  /** Null in a document that has only the total. */
  promptTokens: z.string().nullable(),
  completionTokens: z.string().nullable(),
  /** USD. */
  cost: z.string(),
});
const Groups = z.record(z.string(), DayGroup);

export const DayState = z.object({
  date: Day,
  /** Null where there is no document yet. */
  status: z.enum(['complete', 'partial']).nullable(),
  cachedAt: Time.nullable(),
  /** Nothing was counted for the day since its document was made. */
  current: z.boolean(),
});

/** The day documents, `daily_usage_cache`: of all merchants, so for callers that are bound to none. */
export const days = {
  /** Writes the documents of a range anew; with `onlyStale` those that are missing or no longer current. */
  rebuild: mutation({
    access: 'admin',
    input: z.strictObject({ startDate: Day, endDate: Day, onlyStale: z.boolean().default(false) }),
    output: z.object({ rebuilt: z.number().int(), complete: z.boolean(), durationMs: z.number() }),
  }),
  /** A day's document; one that is missing or no longer current is made first. */
  get: query({
    access: 'admin',
    input: z.strictObject({ date: Day }),
    output: DayState.extend({ byUser: Groups, byModel: Groups, byProvider: Groups }),
  }),
  /** The days of a range that have usage or a document. */
  status: query({
    access: 'admin',
    input: z.strictObject({ startDate: Day, endDate: Day }),
    output: z.object({ rows: z.array(DayState), nextCursor: z.null() }),
  }),
} as const;
