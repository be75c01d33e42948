import { z } from 'zod';
import { mutation, query } from './contract.ts';
import { Quantity } from './quantity.ts';
import { Day, StoredDay, StoredTime } from './time.ts';

export const LitellmPull = z.object({
  id: z.string(),
  /** schedule: goes on from the last one; hand: a range that was asked for; day: a whole day, once its calls have settled. */
  kind: z.enum(['schedule', 'hand', 'day']),
  status: z.enum(['RUNNING', 'COMPLETED', 'FAILED']),
  /** The starts of calls that it is about; the end is not included. */
  start: StoredTime,
  end: StoredTime,
  /** Everything that started before it is recorded; one that was cut off goes on from here. */
  position: StoredTime,
  /** How much of its range is done, 0 to 100. */
  percent: z.number(),
  calls: z.number().int(),
  accepted: z.number().int(),
  /** Were there already: pulled before, or pushed. */
  duplicates: z.number().int(),
  rejected: z.number().int(),
  /** The first of the rejected. */
  rejections: z.array(z.object({ id: z.string().nullable(), code: z.string(), message: z.string() })),
  /** Rows that LiteLLM counted but did not show. */
  missing: z.number().int(),
  error: z.object({ code: z.string(), message: z.string() }).nullable(),
  startedAt: StoredTime,
  finishedAt: StoredTime.nullable(),
});
export type LitellmPull = z.infer<typeof LitellmPull>;

const Sums = z.object({
  requests: Quantity,
  failedRequests: Quantity,
  promptTokens: Quantity,
  completionTokens: Quantity,
  cost: Quantity,
});

/** LiteLLM as a source of usage. For callers that are bound to no merchant. */
export const litellm = {
  /**
   * Pulls what LiteLLM logged of these days; without dates what is new since the last pull. Answers when it has ended, or
   * after 20 seconds with what it has so far: `litellm.status` tells on. SOURCE_BUSY while another pull runs.
   */
  pull: mutation({
    access: 'admin',
    platform: true,
    input: z.strictObject({ startDate: Day.optional(), endDate: Day.optional() }).prefault({}),
    output: LitellmPull,
  }),
  status: query({
    access: 'admin',
    platform: true,
    input: z.strictObject({ startDate: Day.optional(), endDate: Day.optional() }).prefault({}),
    output: z.object({
      /** Whether there is an address to pull from. */
      configured: z.boolean(),
      /** Milliseconds between two pulls; null where they are started by hand alone. */
      intervalMs: z.number().nullable(),
      lastCompletedAt: StoredTime.nullable(),
      /** The newest 20. */
      pulls: z.array(LitellmPull),
      /** Days of the range, at most 400; without one the last 31: what the calls of a day sum up to, and what LiteLLM's own daily sums say. */
      days: z.array(
        z.object({
          date: StoredDay,
          /** Whether its calls or its daily sums are counted; null where nothing is. */
          toldBy: z.enum(['calls', 'sums']).nullable(),
          seen: Sums.nullable(),
          reported: Sums.nullable(),
          differs: z.boolean().nullable(),
          /** Why LiteLLM's sums are not known. */
          error: z.string().nullable(),
          checkedAt: StoredTime.nullable(),
        }),
      ),
    }),
  }),
} as const;

/** What the receivers answer, beside the codes of single entries. */
export const LitellmReceipt = z.object({
  accepted: z.number().int(),
  duplicates: z.number().int(),
  /** `null` items, which LiteLLM sends where it has nothing to say. */
  empty: z.number().int(),
  rejected: z.array(
    z.object({ index: z.number().int(), id: z.string().nullable(), code: z.string(), message: z.string() }),
  ),
});
export type LitellmReceipt = z.infer<typeof LitellmReceipt>;
